"""What must be known before a figure is believed: gaming, accidents, contamination."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from kdharness.harness.errors import KDHarnessError
from kdharness.harness.protocols import Benchmark, MeasuredBenchmark
from kdharness.harness.registry import TOOLS, resolve
from kdharness.harness.types import Answer, Checkpoint, Method, Run

if TYPE_CHECKING:
    from kdharness.harness.evaluation.state import Evaluation, Subject

DEEPEST = 8


def record_red_flags(
    job: Evaluation, subject: Subject, bench: Benchmark, answers: Sequence[Answer]
) -> None:
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


def contaminated(job: Evaluation, checkpoint: Checkpoint, bench: Benchmark) -> dict[str, float]:
    """Items whose prompts stand in data that this checkpoint, or what it came from, was fed.

    Data that has gone since the training cannot be looked at; that is said, not guessed.
    """
    overlaps: Any = resolve(TOOLS, "contamination", "tool")
    prompts = {item.id: "\n".join(item.turns) for item in bench.items if item.turns}
    return _found_in_training(
        job,
        checkpoint,
        "benchmark prompts",
        lambda run: overlaps(
            prompts, (str(turn["content"]) for chat in training_chats(run) for turn in chat)
        ),
    )


def record_trained_rows(job: Evaluation, subject: Subject, bench: MeasuredBenchmark) -> None:
    """Mark a checkpoint whose training data holds rows of a held-out set."""
    known_chats: Any = resolve(TOOLS, "known_chats", "tool")
    chats = {f"{row.set}/{row.id}": _said(row.messages) for row in bench.rows}
    known = _found_in_training(
        job,
        subject.checkpoint,
        "held-out rows",
        lambda run: known_chats(chats, map(_said, training_chats(run))),
    )
    only: dict[str, list[str]] = {}
    for name in dict.fromkeys(row.set for row in bench.rows):
        count = sum(item.startswith(f"{name}/") for item in known)
        if count:
            # A mark of its set's measures alone.
            only.setdefault(f"contaminated:{count}", []).append(f"{name}_")
    items = {"contaminated": sorted(known)[:50]} if known else {}
    found = {"flags": list(only), "items": items, "only": only}
    job.store.set_bench_note(bench.label, bench.revision, found, subject.checkpoint.id)


def _found_in_training(
    job: Evaluation, checkpoint: Checkpoint, what: str, look: Callable[[Run], dict[str, float]]
) -> dict[str, float]:
    found: dict[str, float] = {}
    for run in training_runs(job, checkpoint):
        try:
            found |= look(run)
        except (KDHarnessError, OSError, ValueError, ImportError) as error:
            job.reporter.say(
                f"{run.id}: its training data cannot be checked for {what}: {error}", kind="note"
            )
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
        if run is not None and run.method != Method.EVAL:
            runs.append(run)
        parent = current.parents.get("student")
        current = job.store.checkpoint(parent) if parent else None
    return runs


def training_chats(run: Run) -> Iterator[list[dict[str, Any]]]:
    """The turns of every row that a run was trained on."""
    from kdharness.harness.config.data import SourceSpec

    read: Any = resolve(TOOLS, "read_source", "tool")
    data = run.config.get("data") or {}
    for source in data.get("train") or []:
        for chat in read(SourceSpec.model_validate(source)):
            yield chat["messages"]


def _said(messages: Iterable[Mapping[str, Any]]) -> list[str]:
    """The texts of the turns, without what the system is told."""
    return [str(turn.get("content") or "") for turn in messages if turn.get("role") != "system"]
