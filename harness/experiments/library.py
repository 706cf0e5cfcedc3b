"""The files of experiments: those that ship, and those that were carried out in a home."""

from __future__ import annotations

from dataclasses import dataclass
from importlib import resources
from pathlib import Path

from kdharness.harness.errors import ConfigError
from kdharness.harness.experiments.expand import experiment_names, sweeps_folder
from kdharness.harness.paths import Paths
from kdharness.harness.util.untrusted import CONFIG_BYTES, parse_yaml, read_text


@dataclass(frozen=True)
class Experiment:
    """One file: where it comes from (shipped, kept here, opened), and what it asks."""

    name: str
    file: Path
    origin: str
    question: str = ""


def read_experiment(file: Path, origin: str) -> Experiment:
    """Name and question of a file; one that cannot be read has its file's name and no question."""
    name, question = file.stem, ""
    try:
        values = parse_yaml(experiment_text(file), str(file))
    except ConfigError:
        values = None
    if isinstance(values, dict):
        name, question = str(values.get("name") or name), str(values.get("question") or "")
    return Experiment(name, file, origin, " ".join(question.split()))


def experiment_text(file: Path) -> str:
    """A file's text.

    Raises:
        ConfigError: it cannot be read, or is much too large to be one.
    """
    return read_text(file, "the experiment", limit=CONFIG_BYTES)


def experiments(paths: Paths) -> list[Experiment]:
    """The shipped ones, then those kept in the home.

    A kept one stands for the shipped one of the same name: it may have been carried out from a
    file of the user's own.
    """
    kept = [read_experiment(file, "kept") for file in sorted(sweeps_folder(paths).glob("*.yaml"))]
    folder = resources.files("kdharness.data.experiments")
    shipped = [
        read_experiment(Path(str(folder.joinpath(f"{name}.yaml"))), "shipped")
        for name in experiment_names()
    ]
    texts = {one.file.name: _text(one.file) for one in shipped}
    return [*shipped, *(one for one in kept if _text(one.file) != texts.get(one.file.name))]


def _text(file: Path) -> str | None:
    try:
        return experiment_text(file)
    except ConfigError:
        return None
