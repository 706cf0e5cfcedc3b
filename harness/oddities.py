"""What must be known before a figure is believed: gaming, accidents, contamination."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import TYPE_CHECKING, Any

from kdharness.harness.errors import KDHarnessError
from kdharness.harness.registry import TOOLS, resolve
from kdharness.harness.types import Answer, Checkpoint, Run

if TYPE_CHECKING:
    from kdharness.harness.evaluate import Evaluation, Subject

DEEPEST = 8


def note_oddities(job: Evaluation, subject: Subject, bench: Any, answers: Sequence[Answer]) -> None:
    """Keep what looks like gaming, accident or contamination beside a checkpoint's figures."""
    if not answers:
        return
    look: Callable[[Any, Sequence[Answer]], dict[str, Any]] = resolve(TOOLS, "gaming", "tool")
    found = look(bench, answers)
    known = contaminated(job, subject.checkpoint, bench)
    if known:
        found["flags"].append(f"contaminated:{len(known)}")
        found["items"]["contaminated"] = sorted(known)[:50]
    job.store.set_bench_note(bench.label, bench.revision, found, subject.checkpoint.id)


def contaminated(job: Evaluation, checkpoint: Checkpoint, bench: Any) -> dict[str, float]:
    """Items whose prompts stand in data that this checkpoint, or what it came from, was fed.

    Data that has gone since the training cannot be looked at; that is said, not guessed.
    """
    overlaps: Any = resolve(TOOLS, "contamination", "tool")
    prompts = {item.id: "\n".join(item.turns) for item in bench.items if item.turns}
    found: dict[str, float] = {}
    for run in training_runs(job, checkpoint):
        try:
            found |= overlaps(prompts, training_texts(run))
        except (KDHarnessError, OSError, ValueError, ImportError) as error:
            job.reporter.say(f"{run.id}: its training data cannot be checked for benchmark "
                             f"prompts: {error}", kind="note")  # fmt: skip
    return found


def training_runs(job: Evaluation, checkpoint: Checkpoint) -> list[Run]:
    """The runs behind a checkpoint: its own, and those of the student it started from.

    A teacher's data is not counted: its answers reach the student only through training rows.
    """
    runs: list[Run] = []
    current: Checkpoint | None = checkpoint
    for _ in range(DEEPEST):
        if current is None:
            break
        run = job.store.run(current.run) if current.run else None
        if run is not None and run.method != "eval":
            runs.append(run)
        parent = current.parents.get("student")
        current = job.store.checkpoint(parent) if parent else None
    return runs


def training_texts(run: Run) -> Iterator[str]:
    """Every turn of a run's training rows."""
    from kdharness.harness.config import SourceSpec

    read: Any = resolve(TOOLS, "read_source", "tool")
    data = run.config.get("data") or {}
    for source in data.get("train") or []:
        for chat in read(SourceSpec.model_validate(source)):
            for message in chat["messages"]:
                yield str(message["content"])
