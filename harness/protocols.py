"""What a worker hands to the code that does the work."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from kdharness.harness.paths import Paths
from kdharness.harness.types import Reporter


@dataclass(frozen=True)
class Job:
    """One training: where it lives and whom it tells.

    `resume` asks to go on from the newest checkpoint of `folder`. `rank` is the process's place
    among several; only rank 0 writes to the store.
    """

    paths: Paths
    run: str
    folder: Path
    reporter: Reporter
    resume: bool = False
    rank: int = 0
    world: int = 1

    @property
    def is_main(self) -> bool:
        """Whether this process writes."""
        return self.rank == 0


@dataclass(frozen=True)
class Outcome:
    """What came of a training: the folder of weights, their parents by role, and figures.

    `others` are more checkpoints of the run by name, such as `best`.
    """

    folder: Path
    step: int
    parents: Mapping[str, str] = field(default_factory=dict)
    info: Mapping[str, Any] = field(default_factory=dict)
    others: Mapping[str, Path] = field(default_factory=dict)
