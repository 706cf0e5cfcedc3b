"""Red flags on scores: gaming, generation failures, contamination."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from kdharness.harness.config.evaluation import FOR_EACH
from kdharness.harness.errors import KDHarnessError
from kdharness.harness.protocols import Benchmark, MeasuredBenchmark
from kdharness.harness.registry import TOOLS, resolve
from kdharness.harness.store.lineage import weight_ancestors
from kdharness.harness.types import Answer, Checkpoint, Finish, Method, Run

if TYPE_CHECKING:
    from kdharness.harness.evaluation.state import Evaluation, Subject


def record_red_flags(
    job: Evaluation, subject: Subject, bench: Benchmark, answers: Sequence[Answer]
) -> None:
    """Store flags for gaming, generation failures and contamination of a checkpoint's answers."""
    if not answers:
        return
    find_flags: Callable[[Any, Sequence[Answer]], dict[str, Any]]
    find_flags = resolve(TOOLS, "gaming", "tool")
    note = find_flags(bench, answers)
    known = contaminated(job, subject.checkpoint, bench)
    if known:
        note["flags"].append(f"contaminated:{len(known)}")
        note["items"]["contaminated"] = sorted(known)[:50]
    for kind, found in answered_elsewhere(answers).items():
        note["flags"].append(f"answered-by:{kind}")
        note["items"][f"answered-by:{kind}"] = found[:50]
    if sampled := sampled_answers(answers):
        note["flags"].append("sampled-answers")
        note["items"]["sampled-answers"] = sampled[:50]
    job.store.set_bench_note(bench.label, bench.revision, note, subject.checkpoint.id)


def sampled_answers(answers: Sequence[Answer]) -> list[str]:
    """Return the items that an endpoint answered at its own temperature, not at the one asked."""
    return sorted({a.item for a in answers if "temperature" in a.info.get("without", ())})


def answered_elsewhere(answers: Sequence[Answer]) -> dict[str, list[str]]:
    """Return items by the kind of engine whose model could not be compared with the checkpoint."""
    found: dict[str, list[str]] = {}
    for answer in answers:
        kind = str(answer.info.get("engine", "")).partition(":")[0]
        if kind and kind not in FOR_EACH and answer.finish is not Finish.ERROR:
            found.setdefault(kind, []).append(answer.item)
    return {kind: sorted(set(items)) for kind, items in found.items()}


def contaminated(job: Evaluation, checkpoint: Checkpoint, bench: Benchmark) -> dict[str, float]:
    """Return the items whose prompts occur in the training data of a checkpoint or its ancestors.

    Training data that no longer exists cannot be checked; this is reported.
    """
    overlaps: Any = resolve(TOOLS, "contamination", "tool")
    prompts = {item.id: "\n".join(item.turns) for item in bench.items if item.turns}
    return _found_in_training(
        job,
        checkpoint,
        bench.label,
        "benchmark prompts",
        lambda run: overlaps(
            prompts, (str(turn["content"]) for chat in training_chats(run) for turn in chat)
        ),
    )


def record_trained_rows(job: Evaluation, subject: Subject, bench: MeasuredBenchmark) -> None:
    """Flag a checkpoint whose training data contains rows of a held-out set."""
    known_chats: Any = resolve(TOOLS, "known_chats", "tool")
    chats = {f"{row.set}/{row.id}": _turn_texts(row.messages) for row in bench.rows}
    known = _found_in_training(
        job,
        subject.checkpoint,
        bench.label,
        "held-out rows",
        lambda run: known_chats(chats, map(_turn_texts, training_chats(run))),
    )
    only: dict[str, list[str]] = {}
    for name in dict.fromkeys(row.set for row in bench.rows):
        count = sum(item.startswith(f"{name}/") for item in known)
        if count:
            # The flag applies only to the metrics of this set.
            only.setdefault(f"contaminated:{count}", []).append(f"{name}_")
    items = {"contaminated": sorted(known)[:50]} if known else {}
    note = {"flags": list(only), "items": items, "only": only}
    job.store.set_bench_note(bench.label, bench.revision, note, subject.checkpoint.id)


def _found_in_training(
    job: Evaluation,
    checkpoint: Checkpoint,
    label: str,
    what: str,
    find: Callable[[Run], dict[str, float]],
) -> dict[str, float]:
    """Search each training run once per benchmark, however many checkpoints descend from it."""
    items: dict[str, float] = {}
    for run in training_runs(job, checkpoint):
        try:
            if (run.id, label) not in job.overlaps:
                job.overlaps[run.id, label] = find(run)
            items |= job.overlaps[run.id, label]
        except (KDHarnessError, OSError, ValueError, ImportError) as error:
            job.reporter.say(
                f"{run.id}: cannot check the training data for {what}: {error}", kind="note"
            )
    return items


def training_runs(job: Evaluation, checkpoint: Checkpoint) -> list[Run]:
    """Return the training runs of a checkpoint and of what it was made or started from.

    The teacher's runs do not count: its answers reach the student only through training rows.
    """
    runs: list[Run] = []
    for one in weight_ancestors(job.store, checkpoint):
        run = job.store.run(one.run) if one.run else None
        if run is not None and run.method != Method.EVAL:
            runs.append(run)
    return runs


def training_chats(run: Run) -> Iterator[list[dict[str, Any]]]:
    """Yield the turns of every row that a run was trained on."""
    from kdharness.harness.config.base import reading_stored
    from kdharness.harness.config.data import SourceSpec

    read: Any = resolve(TOOLS, "read_source", "tool")
    data = run.config.get("data") or {}
    with reading_stored():
        sources = [SourceSpec.model_validate(source) for source in data.get("train") or []]
    for source in sources:
        for chat in read(source):
            yield chat["messages"]


def _turn_texts(messages: Iterable[Mapping[str, object]]) -> list[str]:
    """Return the texts of the turns, without system prompts."""
    return [str(turn.get("content") or "") for turn in messages if turn.get("role") != "system"]
