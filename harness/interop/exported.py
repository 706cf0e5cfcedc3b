"""Which answers and judgments an export to other tools' formats holds."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable
from typing import NamedTuple

from kdharness.harness.analysis.judged_answers import FAMILIES, judged_answers, revision_rank
from kdharness.harness.stats.metric_specs import EXPECTED_RATING
from kdharness.harness.store import BenchNotes, Store, note_of
from kdharness.harness.types import Answer, Checkpoint, Judgment

Say = Callable[[str], object]


class Results(NamedTuple):
    """A checkpoint's answers to a benchmark, one per turn, and the judgments of them that count."""

    answers: list[Answer]
    judgments: list[Judgment]


def results_of(
    store: Store, checkpoint: Checkpoint, bench: str, notes: BenchNotes, say: Say
) -> Results:
    """Return the answers and judgments of a checkpoint that an export holds.

    Other tools know neither subsets, seeds nor references: of each judge and opponent, only the
    judgments of one revision are exported, a whole and standard one where there is one, and each
    once. Expected ratings are no protocol of theirs.
    """
    judged = [
        judgment
        for judgment in store.judgments(checkpoint.id, bench)
        if judgment.metric != EXPECTED_RATING and "mirrored" not in judgment.info
    ]

    def rank(revision: str) -> tuple[bool, int, float]:
        whole, used = revision_rank(notes, bench, revision)
        return whole, -len(note_of(notes, bench, revision).get("flags", ())), used

    best: dict[tuple[str, str], str] = {}
    for judgment in judged:
        side = judgment.judge, judgment.baseline
        best[side] = max(best.get(side, judgment.revision), judgment.revision, key=rank)
    counted: dict[tuple[object, ...], Judgment] = {}
    for j in sorted(judged, key=lambda j: rank(j.revision)):
        if j.revision == best[j.judge, j.baseline]:
            counted[j.judge, j.baseline, j.item, j.turn, j.metric, j.order] = j
    answers: list[Answer] = []
    kept: list[Judgment] = []
    by_item: dict[str, tuple[list[Answer], list[Judgment]]] = {}
    for answer in store.answers(checkpoint.id, FAMILIES.get(bench, bench)):
        by_item.setdefault(answer.item, ([], []))[0].append(answer)
    for judgment in counted.values():
        by_item.setdefault(judgment.item, ([], []))[1].append(judgment)
    for item_answers, item_judgments in by_item.values():
        chosen_answers, of_these = judged_answers(item_answers, item_judgments)
        answers += chosen_answers
        kept += of_these
    others = len({j.revision for j in judged} - set(best.values()))
    if left := len(judged) - len(kept):
        say(
            f"{checkpoint.name}: {left} of {len(judged)} judgments on {bench} are left out: they "
            f"are of {'other settings' if others else 'other answers, or made again'}"
        )
    return Results(answers, kept)


def judge_names(judges: Iterable[str]) -> dict[str, str]:
    """Return each judge's model name alone, as FastChat writes it; the whole where two share it."""
    names = {judge: _plain(judge) for judge in judges}
    shared = Counter(names.values())
    return {judge: name if shared[name] == 1 else judge for judge, name in names.items()}


def _plain(judge: str) -> str:
    name = judge.split("@http")[0]
    return name.split(":", 1)[1] if ":" in name else name
