"""Transcripts with the largest differences between two checkpoints, in both directions."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from kdharness.harness.analysis.compared_with import NEXT_TURN, Others, texts_and_others
from kdharness.harness.analysis.judged_answers import (
    FAMILIES,
    current_judgments,
    headline_metric,
    judged_answers,
    revision_rank,
)
from kdharness.harness.analysis.prompts import BenchTexts
from kdharness.harness.analysis.scorebook import Group, groups_of, read_group
from kdharness.harness.paths import Paths
from kdharness.harness.reports.blocks import Block, Paragraph, Transcript, number
from kdharness.harness.stats.rows import question_sums
from kdharness.harness.store import BenchNotes, Store
from kdharness.harness.types import Answer, Checkpoint, Finish, Judgment

LONGEST = 3000


def largest_differences(
    store: Store, paths: Paths, names: tuple[str, str], count: int
) -> list[Block]:
    """Return the items whose scores differ most, alternating between gains and losses."""
    first, second = (store.checkpoint(name) for name in names)
    if first is None or second is None:
        return []
    compared = _compared(store, first, second)
    candidates: list[tuple[str, str]] = []
    for bench, (before, after) in compared.items():
        shared = sorted(set(before.means) & set(after.means))
        gaps = sorted(shared, key=lambda item: after.means[item] - before.means[item])
        chosen = [item for pair in zip(reversed(gaps), gaps, strict=True) for item in pair]
        chosen = [i for i in dict.fromkeys(chosen) if before.means[i] != after.means[i]]
        candidates += [(bench, item) for item in chosen[:count]]
    transcripts: list[Block] = []
    prompts: dict[str, tuple[dict[str, str], Others]] = {}
    notes = store.bench_notes()
    for bench, item in _in_turn(candidates, count):
        if bench not in prompts:
            texts, others = texts_and_others(store, paths, bench, names, notes)
            prompts[bench] = _prompts(texts), others
        asked, beside = prompts[bench]
        transcripts.append(
            Transcript(
                f"{bench}, {item}",
                asked.get(item, "(prompt not available)"),
                tuple(side.shown(item) for side in compared[bench]),
                tuple((title, _short(text)) for title, text in beside.get(item, ())),
            )
        )
    if not transcripts:
        return [
            Paragraph(f"{names[0]} and {names[1]} have no answered items with different scores.")
        ]
    return transcripts


def _in_turn(candidates: Sequence[tuple[str, str]], count: int) -> list[tuple[str, str]]:
    """Interleave the items of all benchmarks."""
    lists: dict[str, list[tuple[str, str]]] = {}
    for entry in candidates:
        lists.setdefault(entry[0], []).append(entry)
    longest = max(map(len, lists.values()), default=0)
    mixed = [rows[n] for n in range(longest) for rows in lists.values() if n < len(rows)]
    return mixed[:count]


@dataclass(frozen=True)
class _Results:
    """A checkpoint's results on one revision of a benchmark by one judge.

    Attributes:
        name: the checkpoint's.
        means: the mean per item, of the benchmark's headline metric if it has one.
        answers, judgments: by item, oldest first.
    """

    name: str
    means: Mapping[str, float]
    answers: Mapping[str, Sequence[Answer]]
    judgments: Mapping[str, Sequence[Judgment]]
    notes: BenchNotes

    def shown(self, item: str) -> tuple[str, str, str]:
        """Return the name, the judged answer, and its score with what failed."""
        current = current_judgments(self.judgments.get(item, ()), self.notes)
        answers, current = judged_answers(self.answers.get(item, ()), current)
        failed = [j.raw for j in current if j.judge == "exact" and j.value == 0 and j.raw]
        score = "; ".join([f"scored {number(self.means[item])}", *failed])
        return self.name, _text(answers), score


def _compared(
    store: Store, first: Checkpoint, second: Checkpoint
) -> dict[str, tuple[_Results, _Results]]:
    """Return the results on each benchmark: on its highest common revision, by one judge."""
    notes = store.bench_notes()
    tables = [
        {(group.bench, group.revision, group.judge): group for group in groups_of(store, [one.id])}
        for one in (first, second)
    ]
    pairs: dict[str, tuple[Group, Group]] = {}
    for key, group in tables[0].items():
        known = pairs.get(group.bench)
        rank = revision_rank(notes, group.bench, group.revision)
        better = known is None or rank > revision_rank(notes, group.bench, known[0].revision)
        if key in tables[1] and better:
            pairs[group.bench] = (group, tables[1][key])
    return {
        bench: (_results(store, first, pair[0], notes), _results(store, second, pair[1], notes))
        for bench, pair in pairs.items()
        if store.answers(first.id, FAMILIES.get(bench, bench))
    }


def _results(store: Store, checkpoint: Checkpoint, group: Group, notes: BenchNotes) -> _Results:
    sums = question_sums(read_group(store, group), headline_metric(notes, group.bench))
    answers: dict[str, list[Answer]] = {}
    for answer in store.answers(checkpoint.id, FAMILIES.get(group.bench, group.bench)):
        answers.setdefault(answer.item, []).append(answer)
    judgments: dict[str, list[Judgment]] = {}
    for judgment in store.judgments(checkpoint.id, group.bench, group.judge, group.revision):
        judgments.setdefault(judgment.item, []).append(judgment)
    means = {item: value / weight for item, (value, weight) in sums.items() if weight}
    return _Results(checkpoint.name, means, answers, judgments, notes)


def _text(answers: Sequence[Answer]) -> str:
    """Return all turns of an answer, marking failed and truncated ones."""
    texts = []
    for answer in answers:
        text = _short(answer.text) or "(empty)"
        marks = {Finish.LENGTH: "\n(truncated at the token limit)", Finish.ERROR: "\n(failed)"}
        texts.append(text + marks.get(answer.finish, ""))
    return NEXT_TURN.join(texts) or "(no answer)"


def _short(text: str) -> str:
    return (
        text if len(text) <= LONGEST else f"{text[:LONGEST]}… (+{len(text) - LONGEST} characters)"
    )


def _prompts(texts: BenchTexts) -> dict[str, str]:
    """Map each item to its prompt, if the benchmark's files are available."""
    return {
        item: NEXT_TURN.join(turns[texts.systems[item] :]) for item, turns in texts.prompts.items()
    }
