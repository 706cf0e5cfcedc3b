"""Answers and verdicts of two checkpoints, item by item, as plain data. No widgets."""

from __future__ import annotations

import difflib
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from kdharness.harness.analysis.compared_with import OtherText
from kdharness.harness.analysis.judged_answers import (
    FAMILIES,
    current_judgments,
    headline_metric,
    judged_answers,
)
from kdharness.harness.analysis.labelling import valid_labels
from kdharness.harness.stats.metric_specs import BOTH_ORDERS, EXPECTED_RATING
from kdharness.harness.store import Store
from kdharness.harness.store.labels import Label
from kdharness.harness.types import Answer, Judgment, JudgmentStatus
from kdharness.harness.util.text import figure, safe_text
from kdharness.tui.viewmodels.rows import TEXT_LIMIT, Line, text_lines

SHOWN = 5
"""Ratings shown of a distribution."""
MIDDLE = 0.5
"""The value of a tie."""
CLOSE = 0.5
"""Texts that share a smaller part have hardly a word in common: all would be highlighted."""
WORDS = 1500
"""Longer texts, in words, are not compared word by word."""


@dataclass(frozen=True)
class Side:
    """One checkpoint's answers to an item, their judgments, and people's labels of them."""

    answers: tuple[Answer, ...] = ()
    judgments: tuple[Judgment, ...] = ()
    headline: str = ""
    labels: tuple[Label, ...] = ()

    @property
    def value(self) -> float | None:
        """The mean verdict of the benchmark's headline metric, or of all if it has none.

        An expected rating is another scale: it stands in only where nothing else was judged.
        """
        named = [j for j in self.judgments if j.metric == self.headline]
        parsed = [j for j in self.judgments if j.metric != EXPECTED_RATING]
        return _mean(named or parsed or self.judgments)

    @property
    def mean(self) -> float | None:
        """The mean of all verdicts."""
        return _mean(self.judgments)

    @property
    def failed(self) -> bool:
        """Whether an answer or a verdict is missing or unreadable."""
        return any(j.status is not JudgmentStatus.OK for j in self.judgments) or any(
            answer.finish.value == "error" for answer in self.answers
        )


def shown_mean(value: float | None) -> str:
    """Return an item's verdict as it is shown."""
    return figure(value, 3)


def _shown_verdicts(side: Side) -> dict[tuple[str, str, int], str]:
    """Return (judge, metric, turn) -> the mean of its verdicts as it is shown."""
    found: dict[tuple[str, str, int], list[Judgment]] = {}
    for judgment in side.judgments:
        found.setdefault((judgment.judge, judgment.metric, judgment.turn), []).append(judgment)
    return {key: shown_mean(_mean(group)) for key, group in found.items()}


def _mean(judgments: Sequence[Judgment]) -> float | None:
    judged = [j for j in judgments if j.value is not None and j.weight > 0]
    if not judged:
        return None
    return sum(j.value or 0.0 for j in judged) / sum(j.weight for j in judged)


@dataclass(frozen=True)
class Exchange:
    """One item: its prompt if known, both sides, and what they were compared with."""

    item: str
    category: str
    first: Side
    second: Side
    turns: tuple[str, ...] = ()
    others: tuple[OtherText, ...] = ()

    @property
    def differs(self) -> bool:
        """Whether both have a verdict, and they are not the same as they are shown.

        Beside a headline that is equal, another metric's verdict may differ.
        """
        values = self.first.value, self.second.value
        if None in values:
            return False
        ours, theirs = _shown_verdicts(self.first), _shown_verdicts(self.second)
        others = any(ours[key] != theirs[key] for key in ours.keys() & theirs.keys())
        return others or len({shown_mean(value) for value in values}) > 1

    @property
    def relation(self) -> str:
        """What the two verdicts say together."""
        count = sum(side.value is not None for side in (self.first, self.second))
        if count < 2:
            return "only one verdict" if count else "no verdict"
        return "≠ verdicts differ" if self.differs else "= same verdict"

    @property
    def failed(self) -> bool:
        """Whether either side has a failure."""
        return self.first.failed or self.second.failed


@dataclass
class Transcript:
    """All items of a benchmark that at least one of two checkpoints answered."""

    bench: str
    names: tuple[str, str]
    exchanges: list[Exchange] = field(default_factory=list)


def benches_of(store: Store, names: Sequence[str]) -> list[str]:
    """Return the benchmarks that some of the checkpoints answered."""
    ids = {c.id for name in names if (c := store.checkpoint(name)) is not None}
    judged = {g["bench"] for g in store.judgment_groups() if g["checkpoint"] in ids}
    return sorted(bench for bench in judged if bench != "heldout")


def read_transcript(
    store: Store,
    bench: str,
    names: tuple[str, str],
    prompts: Mapping[str, Sequence[str]],
    others: Mapping[str, Sequence[OtherText]] | None = None,
) -> Transcript:
    """Read both sides of every item, in the order of the items' ids."""
    sides: list[dict[str, Side]] = []
    categories: dict[str, str] = {}
    notes = store.bench_notes()
    headline = headline_metric(notes, bench)
    for name in names:
        checkpoint = store.checkpoint(name)
        table: dict[str, Side] = {}
        if checkpoint is not None:
            answers: dict[str, list[Answer]] = {}
            for answer in store.answers(checkpoint.id, FAMILIES.get(bench, bench)):
                answers.setdefault(answer.item, []).append(answer)
            verdicts: dict[str, list[Judgment]] = {}
            for j in store.judgments(checkpoint.id, bench):
                verdicts.setdefault(j.item, []).append(j)
                categories[j.item] = j.category
            labels: dict[str, list[Label]] = {}
            for label in valid_labels(store, checkpoint.id, bench):
                labels.setdefault(label.item, []).append(label)
            for item in {*answers, *verdicts}:
                current = current_judgments(verdicts.get(item, []), notes)
                turns, judgments = judged_answers(answers.get(item, []), current)
                judgments.sort(key=lambda j: (j.turn, j.judge, j.order, j.metric))
                shown = {answer.id for answer in turns}
                given = tuple(x for x in labels.get(item, ()) if x.answer in shown)
                table[item] = Side(tuple(turns), tuple(judgments), headline, given)
        sides.append(table)
    items = sorted({*sides[0], *sides[1]}, key=_natural)
    judged = {item for item in items if item in categories}
    exchanges = [
        Exchange(
            item,
            categories.get(item, ""),
            sides[0].get(item, Side()),
            sides[1].get(item, Side()),
            tuple(prompts.get(item, ())),
            tuple((others or {}).get(item, ())),
        )
        for item in items
        if item in judged or not judged
    ]
    return Transcript(bench, names, exchanges)


def _natural(text: str) -> list[tuple[int, int, str]]:
    """Return a natural sort key: `q10` after `q2`."""
    return [(0, int(p), "") if p.isdigit() else (1, 0, p) for p in re.findall(r"\d+|\D+", text)]


# ---------------------------------------------------------------- as lines


def answer_lines(side: Side, other: Side) -> list[Line]:
    """Return a side's answers; words that the other side lacks are highlighted."""
    lines: list[Line] = []
    theirs = {answer.turn: answer.text for answer in other.answers}
    for answer in side.answers:
        if len(side.answers) > 1:
            lines.append([(f"turn {answer.turn}", "strong")])
        lines += marked_lines(answer.text, theirs.get(answer.turn))
        end = {"length": "… cut off at the token limit", "error": "✗ no answer"}
        if answer.finish.value in end:
            lines.append([(end[answer.finish.value], "bad")])
        lines.append([])
    return lines or [[("no answer stored", "dim")]]


def marked_lines(text: str, other: str | None) -> list[Line]:
    """Return a text as lines, with the words that the other text lacks highlighted."""
    if other is None or text == other:
        return text_lines(text)
    mine, theirs = _tokens(safe_text(text, TEXT_LIMIT)), _tokens(safe_text(other, TEXT_LIMIT))
    if len(mine) > 2 * WORDS or len(theirs) > 2 * WORDS:
        return text_lines(text)
    matcher = difflib.SequenceMatcher(None, mine, theirs, autojunk=False)
    if matcher.ratio() < CLOSE:
        return text_lines(text)
    lines: list[Line] = [[]]
    for tag, start, stop, _, _ in matcher.get_opcodes():
        role = "" if tag == "equal" else "accent"
        for token in mine[start:stop]:
            for index, part in enumerate(token.expandtabs(4).split("\n")):
                if index:
                    lines.append([])
                if part:
                    lines[-1].append((part, role))
    return lines


def _tokens(text: str) -> list[str]:
    return re.findall(r"\n|[^\S\n]+|[^\s]+", text)


def other_lines(exchange: Exchange) -> list[Line]:
    """Return what the answers were compared with, under the names of whose it is."""
    lines: list[Line] = []
    for title, text in exchange.others:
        lines += [[(safe_text(title, 60), "strong")], *text_lines(text), []]
    return lines


def verdict_lines(side: Side) -> list[Line]:
    """Return all verdicts of a side, with the judge's replies."""
    lines: list[Line] = []
    for j in side.judgments:
        value = j.status.value if j.value is None else shown_value(j)
        ok = j.status is JudgmentStatus.OK
        about = f" turn {j.turn}" if len({k.turn for k in side.judgments}) > 1 else ""
        about += f" against {j.baseline}" if j.baseline else ""
        about += ", other order" if j.order and j.baseline else ""
        lines.append(
            [
                (f"{j.metric}{about} ", "dim"),
                (value, "strong" if ok else "bad"),
                (f"  {safe_text(j.judge, 60)}", "dim"),
            ]
        )
        if shown := distribution(j):
            lines.append([(shown, "dim")])
        if j.error:
            lines += text_lines(j.error, "bad")
        if j.raw:
            lines += text_lines(j.raw)
    for label in side.labels:
        about = f" turn {label.turn}" if len(side.answers) > 1 else ""
        about += f" against {label.baseline}" if label.baseline else ""
        who = f"  by {label.labeller}{', blind' if label.blind else ''}"
        parts = [(f"label: {label.metric}{about} ", "dim"), (figure(label.value, 3), "strong")]
        lines.append([*parts, (safe_text(who, 60), "dim")])
        if label.note:
            lines += text_lines(label.note)
    return lines or [[("not judged", "dim")]]


def shown_value(judgment: Judgment) -> str:
    """Return a verdict's value; a comparison in five steps in words."""
    value = (judgment.value or 0.0) / (judgment.weight or 1.0)
    if judgment.metric not in BOTH_ORDERS:
        return figure(value, 3)
    word = "tie" if value == MIDDLE else "won" if value > MIDDLE else "lost"
    return f"{word} clearly, counts {judgment.weight:g} times" if judgment.weight > 1 else word


def distribution(judgment: Judgment) -> str:
    """Return the likeliest ratings under an expected rating, and the mass of all of them."""
    shares = judgment.info.get("distribution", {})
    ranked = sorted(shares.items(), key=lambda pair: -pair[1])
    if not ranked:
        return ""
    shown = ", ".join(f"{number}: {share:.2f}" for number, share in ranked[:SHOWN])
    rest = " …" if len(ranked) > SHOWN else ""
    return f"{shown}{rest} (mass on ratings {judgment.info.get('mass', 0.0):.2f})"


def as_text(exchange: Exchange, transcript: Transcript) -> str:
    """Return an exchange as text for a file, with control characters made visible."""
    parts = [f"# {transcript.bench} {exchange.item} ({exchange.category})\n"]
    parts += [f"## prompt\n\n{turn}\n" for turn in exchange.turns]
    for name, side in zip(transcript.names, (exchange.first, exchange.second), strict=True):
        parts.append(f"## {name}\n")
        parts += [answer.text + "\n" for answer in side.answers]
        lines = ["".join(text for text, _ in line) for line in verdict_lines(side)]
        parts.append("\n".join(f"> {line}" for line in lines) + "\n")
    parts += [f"## {title}\n\n{text}\n" for title, text in exchange.others]
    return safe_text("\n".join(parts))
