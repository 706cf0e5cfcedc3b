"""State shared by the steps of an evaluation: subjects, tally, baselines."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from kdharness.harness.config.evaluation import EvalConfig
from kdharness.harness.models.adoption import adopt_folder
from kdharness.harness.models.checkpoints import find_model, model_path, progress_callbacks
from kdharness.harness.models.loading import check_adapter
from kdharness.harness.models.resolve import identity_of
from kdharness.harness.paths import Paths
from kdharness.harness.protocols import Reporter
from kdharness.harness.store import Store
from kdharness.harness.types import Answer, Checkpoint, Method


@dataclass(frozen=True)
class Subject:
    """A checkpoint to score; `source` loads it and is empty for imported answers."""

    checkpoint: Checkpoint
    source: str


@dataclass
class Tally:
    """Counts of one evaluation."""

    answers: int = 0
    failed_answers: int = 0
    judgments: int = 0
    failed_judgments: int = 0
    reused: int = 0
    usd: float = 0.0
    waiting: list[str] = field(default_factory=list)
    left: int = 0

    def as_dict(self) -> dict[str, Any]:
        """Return the counts for the run's `info`."""
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
    """The state of an evaluation."""

    config: EvalConfig
    paths: Paths
    store: Store
    reporter: Reporter
    tally: Tally = field(default_factory=Tally)
    sides: dict[str, Subject] = field(default_factory=dict)
    good_answers: dict[tuple[str, str], list[Answer]] = field(default_factory=dict)
    overlaps: dict[tuple[str, str], dict[str, float]] = field(default_factory=dict)
    answered: frozenset[str] | None = None
    """Ids of the checkpoints that the answering engine answers for; None for all."""

    def is_answered(self, subject: Subject) -> bool:
        """Return whether missing and failed answers of a checkpoint are generated."""
        return self.answered is None or subject.checkpoint.id in self.answered

    def side(self, name: str) -> Subject:
        """Return a baseline or teacher, resolved once."""
        if name not in self.sides:
            code = self.config.trust_remote_code
            self.sides[name] = find_checkpoint(
                name, self.paths, self.store, self.reporter, trust_remote_code=code
            )
        return self.sides[name]


def find_checkpoint(
    source: str,
    paths: Paths,
    store: Store,
    reporter: Reporter | None = None,
    *,
    trust_remote_code: bool = False,
) -> Subject:
    """Return a stored checkpoint, or add one for a folder, an asset or a hub id.

    Raises:
        ModelError: not found, or an adapter that would not load completely. All checkpoints are
            checked before the first one answers.
    """
    checkpoint, folder = find_model(source, paths, store, **progress_callbacks(reporter, source))
    if folder:
        check_adapter(Path(folder), source, paths, trust_remote_code=trust_remote_code)
    return Subject(checkpoint, folder)


def stored_subject(source: str, paths: Paths, store: Store) -> Subject:
    """Return what `find_checkpoint` will return, without storing a new checkpoint or a new name.

    Raises:
        ModelError, AssetError: nothing of that name, or weights that cannot be read.
    """
    known = store.checkpoint(source)
    if known is not None and not known.path:
        return Subject(known, "")
    found = model_path(source, paths, store)
    model = identity_of(found, paths, store)
    adopt_folder(found, paths, store)
    stored = store.checkpoint(model.id)
    if stored is None or stored.id != model.id:
        stored = Checkpoint(
            id=model.id,
            name=source,
            method=Method.MODEL.value,
            path=found,
            created=0.0,
            weights=model.weights,
            interface=model.interface,
        )
    return Subject(stored, found)
