"""Where files are on disk: the only module that knows the layout of a home.

A home (`--home`, else `KDHARNESS_HOME`, else the platform's data folder) contains the store, the
runs and the logs. Pulled models and benchmarks are in its `assets/` unless `KDHARNESS_ASSETS`
shares one folder between homes.
"""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path

import platformdirs

from kdharness.harness.errors import ConfigError

NAME_BYTES = 200
"""Longest name of a run: file systems take 255 bytes, and files beside a folder add endings."""


@dataclass(frozen=True)
class Paths:
    """Every location of one home."""

    home: Path

    @property
    def store(self) -> Path:
        """The SQLite file with everything that happened."""
        return self.home / "kdharness.db"

    @property
    def runs(self) -> Path:
        """One folder per run: config, log, checkpoints."""
        return self.home / "runs"

    @property
    def assets(self) -> Path:
        """Pulled models and benchmark files."""
        shared = os.environ.get("KDHARNESS_ASSETS")
        return _expanded(shared, "KDHARNESS_ASSETS") if shared else self.home / "assets"

    @property
    def models(self) -> Path:
        """Models made here: converted ones and students cut from a teacher."""
        return self.home / "models"

    @property
    def settings(self) -> Path:
        """The user's settings: default judge, theme, keys, prices."""
        return self.home / "settings.yaml"

    @property
    def cache(self) -> Path:
        """Teacher distributions, content-addressed; safe to delete."""
        return self.home / "cache"

    @property
    def rows(self) -> Path:
        """Rows that reference models wrote, content-addressed; runs that use them need them."""
        return self.home / "rows"

    @property
    def sweeps(self) -> Path:
        """One file per experiment that was run here, by its name; see `kept_experiments`."""
        return self.home / "sweeps"

    def run(self, run_id: str) -> Path:
        """Return the folder of one run.

        Raises:
            ConfigError: a name that would escape the runs' folder, or that no folder can have.
        """
        if len(run_id.encode("utf-8", "replace")) > NAME_BYTES:
            raise ConfigError(f"the run name {run_id[:20]}… is too long", hint="use a shorter one")
        if run_id in ("", ".", "..") or any(char in run_id for char in "/\\\0"):
            raise ConfigError(f"invalid run name {run_id!r}", hint="use letters, digits, . - and _")
        return self.runs / run_id


def kept_experiments(paths: Paths) -> list[Path]:
    """Return the files of the experiments that were run in a home, by name."""
    return sorted(paths.sweeps.glob("*.yaml"))


def _expanded(text: str | os.PathLike[str], where: str) -> Path:
    """Expand `~`; a folder named `~nobody` is never created."""
    if "\0" in os.fspath(text):
        raise ConfigError(f"not the path of a folder: {os.fspath(text)!r}", where=where)
    try:
        return Path(text).expanduser()
    except RuntimeError as error:
        raise ConfigError(
            f"not the path of a folder: {os.fspath(text)!r}: {error}",
            where=where,
            hint="write the folder without ~",
        ) from error


def find_paths(home: str | os.PathLike[str] | None = None) -> Paths:
    """Return the home given by option, environment or platform default.

    Raises:
        ConfigError: it cannot be the path of a folder.
    """
    chosen = home or os.environ.get("KDHARNESS_HOME") or platformdirs.user_data_dir("kdharness")
    return Paths(_expanded(chosen, "the home").resolve())
