"""Experiment files: those shipped with kdharness, and those run in a home."""

from __future__ import annotations

from dataclasses import dataclass
from importlib import resources
from pathlib import Path

from kdharness.harness.errors import ConfigError
from kdharness.harness.experiments.expand import experiment_names
from kdharness.harness.paths import Paths, kept_experiments
from kdharness.harness.util.untrusted import CONFIG_BYTES, parse_yaml, read_text


@dataclass(frozen=True)
class Experiment:
    """One experiment file: its origin (shipped, kept, opened) and its question."""

    name: str
    file: Path
    origin: str
    question: str = ""


def read_experiment(file: Path, origin: str) -> Experiment:
    """Read a file's name and question; an unreadable file has its stem as name and no question."""
    name, question = file.stem, ""
    try:
        values = parse_yaml(experiment_text(file), str(file))
    except ConfigError:
        values = None
    if isinstance(values, dict):
        name, question = str(values.get("name") or name), str(values.get("question") or "")
    return Experiment(name, file, origin, " ".join(question.split()))


def experiment_text(file: Path) -> str:
    """Read the text of an experiment file.

    Raises:
        ConfigError: it cannot be read, or is too large.
    """
    return read_text(file, "the experiment", limit=CONFIG_BYTES)


def experiments(paths: Paths) -> list[Experiment]:
    """Return the experiments kept in the home, then the shipped ones.

    A kept file that is identical to the shipped one of the same name is listed once; otherwise
    both are listed.
    """
    kept = [read_experiment(file, "kept") for file in kept_experiments(paths)]
    folder = resources.files("kdharness.data.experiments")
    shipped = [
        read_experiment(Path(str(folder.joinpath(f"{name}.yaml"))), "shipped")
        for name in experiment_names()
    ]
    texts = {entry.file.name: _text(entry.file) for entry in shipped}
    return [*(one for one in kept if _text(one.file) != texts.get(one.file.name)), *shipped]


def _text(file: Path) -> str | None:
    try:
        return experiment_text(file)
    except ConfigError:
        return None
