"""The one file that knows where things lie on disk.

A home (`--home`, else `KDHARNESS_HOME`, else the platform's data folder) holds the store, the
runs and the logs. Pulled models and benchmarks lie beside it in `assets/` unless
`KDHARNESS_ASSETS` shares one folder between homes.
"""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path

import platformdirs

from kdharness.harness.errors import ConfigError


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
        """One folder a run: config, log, checkpoints."""
        return self.home / "runs"

    @property
    def assets(self) -> Path:
        """Pulled models and benchmark files."""
        shared = os.environ.get("KDHARNESS_ASSETS")
        return Path(shared).expanduser() if shared else self.home / "assets"

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

    def run(self, run_id: str) -> Path:
        """The folder of one run.

        Raises:
            ConfigError: a name that would lead out of the runs' folder.
        """
        if run_id in ("", ".", "..") or any(sign in run_id for sign in "/\\\0"):
            raise ConfigError(f"{run_id!r} is no run's name", hint="use letters, digits, . - and _")
        return self.runs / run_id


def local_path(text: str) -> Path:
    """What a user's text names on this machine; `~nobody` and a NUL are no reason to fail."""
    try:
        return Path(text.replace("\0", "\ufffd")).expanduser()
    except RuntimeError:
        return Path(text.replace("\0", "\ufffd"))


def exists(path: Path, *, folder: bool | None = None) -> bool:
    """Whether something is there; a name that is too long to be one is not.

    Args:
        folder: True for a folder, False for a regular file, None for either.
    """
    try:
        return path.exists() if folder is None else path.is_dir() if folder else path.is_file()
    except (OSError, ValueError):
        return False


def nearest(place: Path) -> Path:
    """The place itself, or the closest folder above it that exists."""
    while not place.exists() and place != place.parent:
        place = place.parent
    return place


def find_paths(home: str | os.PathLike[str] | None = None) -> Paths:
    """The home that was asked for, by option, environment or platform default."""
    chosen = home or os.environ.get("KDHARNESS_HOME") or platformdirs.user_data_dir("kdharness")
    return Paths(Path(chosen).expanduser().resolve())


def share_processors() -> None:
    """Make OpenMP threads sleep instead of spin at barriers; call before torch is imported.

    Two busy torch processes that spin on the same cores slow each other down several times over
    (measured on 2 cores: 8 to 30 tokens/s spinning, 41 to 53 sleeping); a machine that trains
    and evaluates at once is the normal case here. A value that the user set stays.
    """
    os.environ.setdefault("OMP_WAIT_POLICY", "passive")
