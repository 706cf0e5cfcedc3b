"""What the steps of an evaluation share: subjects, the tally, the baselines."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from kdharness.harness.config.evaluation import EvalConfig
from kdharness.harness.models.checkpoints import find_model, told
from kdharness.harness.models.loading import check_adapter
from kdharness.harness.paths import Paths
from kdharness.harness.protocols import Reporter
from kdharness.harness.store import Store
from kdharness.harness.types import Checkpoint
from kdharness.harness.util.filesystem import exists


@dataclass(frozen=True)
class Subject:
    """A checkpoint to score; `source` loads it, empty where its answers were made elsewhere."""

    checkpoint: Checkpoint
    source: str


@dataclass
class Tally:
    """What one evaluation did."""

    answers: int = 0
    failed_answers: int = 0
    judgments: int = 0
    failed_judgments: int = 0
    reused: int = 0
    usd: float = 0.0
    waiting: list[str] = field(default_factory=list)
    left: int = 0

    def as_dict(self) -> dict[str, Any]:
        """For the run's `info`."""
        return {
            "answers": self.answers,
            "failed_answers": self.failed_answers,
            "judgments": self.judgments,
            "failed_judgments": self.failed_judgments,
            "reused": self.reused,
            "usd": round(self.usd, 6),
            "waiting": self.waiting,
            "left": self.left,
        }


@dataclass
class Evaluation:
    """What the steps share."""

    config: EvalConfig
    paths: Paths
    store: Store
    reporter: Reporter
    tally: Tally = field(default_factory=Tally)
    sides: dict[str, Subject] = field(default_factory=dict)

    def side(self, name: str) -> Subject:
        """A baseline or teacher, looked for once."""
        if name not in self.sides:
            self.sides[name] = find_checkpoint(name, self.paths, self.store, self.reporter)
        return self.sides[name]


def find_checkpoint(
    source: str, paths: Paths, store: Store, reporter: Reporter | None = None
) -> Subject:
    """A stored checkpoint, or a new one for a folder, an asset or a hub id.

    Raises:
        ModelError: not found, or an adapter that would not load whole: of several checkpoints to
            score the last one's fault is found before the first is asked anything.
    """
    checkpoint, found = find_model(source, paths, store, **told(reporter, source))
    if found and exists(Path(found) / "adapter_config.json"):
        check_adapter(Path(found), source, paths)
    return Subject(checkpoint, found)
