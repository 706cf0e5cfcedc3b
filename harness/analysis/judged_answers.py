"""Answers together with the judgments of them, as transcripts show them.

A store keeps the answers and judgments of every revision and setting. Those of another revision
must not be shown as if they were about the same answer.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from kdharness.harness.analysis.metrics import flag_name
from kdharness.harness.registry import headline_of
from kdharness.harness.stats.metric_specs import EXPECTED_RATING
from kdharness.harness.store import BenchNotes, note_of
from kdharness.harness.types import Answer, Judgment

FAMILIES = {
    "alpaca-eval-1": "alpaca-eval",
    "alpaca-eval-2": "alpaca-eval",
    "mt-bench-pair": "mt-bench",
}
"""Benchmarks with shared answers -> the name their answers are stored under."""


def revision_rank(notes: BenchNotes, bench: str, revision: str) -> tuple[bool, float]:
    """Return a sort key: a whole benchmark is above a subset, then the revision used last."""
    note = note_of(notes, bench, revision)
    subset = any(flag_name(flag) == "subset" for flag in note.get("flags", ()))
    return not subset, float(note.get("used", 0.0))


def current_judgments(judgments: Sequence[Judgment], notes: BenchNotes) -> list[Judgment]:
    """Return the judgments of an item that count: of each judge those of one revision, each once.

    An expected rating is another protocol with revisions of its own, beside the parsed ones.

    Args:
        judgments: of one item by one checkpoint, oldest first.
        notes: the store's notes on benchmarks.

    Returns:
        those of the highest revision last.
    """
    newest: dict[tuple[str, str], float] = {}
    for j in judgments:
        newest[j.judge, j.revision] = max(j.created, newest.get((j.judge, j.revision), j.created))

    def rank(j: Judgment) -> tuple[bool, float, float]:
        return *revision_rank(notes, j.bench, j.revision), newest[j.judge, j.revision]

    def protocol(j: Judgment) -> tuple[str, bool]:
        return j.judge, j.metric == EXPECTED_RATING

    best: dict[tuple[str, bool], Judgment] = {}
    for j in judgments:
        if protocol(j) not in best or rank(j) > rank(best[protocol(j)]):
            best[protocol(j)] = j
    kept = {
        (j.judge, j.turn, j.metric, j.order, j.baseline): j
        for j in judgments
        if j.revision == best[protocol(j)].revision
    }
    return sorted(kept.values(), key=rank)


def judged_answers(
    answers: Iterable[Answer], judgments: Sequence[Judgment]
) -> tuple[list[Answer], list[Judgment]]:
    """Return one answer per turn and the judgments of these: the judged ones, else the newest.

    A turn that is not judged itself comes from the settings of one that is.

    Args:
        answers: of one item by one checkpoint, oldest first.
        judgments: those that count, the most important last.
    """
    stored = {answer.id: answer for answer in answers}
    place = {j.answer: n for n, j in enumerate(judgments) if j.answer in stored}
    settings = {stored[key].settings: n for key, n in place.items() if key is not None}

    def rank(answer: Answer) -> tuple[int, int]:
        return place.get(answer.id, -1), settings.get(answer.settings, -1)

    chosen: dict[int, Answer] = {}
    for answer in stored.values():
        if answer.turn not in chosen or rank(answer) >= rank(chosen[answer.turn]):
            chosen[answer.turn] = answer
    shown = {answer.id for answer in chosen.values()}
    kept = [j for j in judgments if j.answer in shown or j.answer not in stored]
    return [chosen[turn] for turn in sorted(chosen)], kept


def headline_metric(notes: BenchNotes, bench: str) -> str:
    """Return a benchmark's headline metric, by its kind."""
    kinds = [
        str(note["scorer"])
        for (checkpoint, name, _), note in notes.items()
        if not checkpoint and name == bench and note.get("scorer")
    ]
    return headline_of(kinds[-1] if kinds else bench)
