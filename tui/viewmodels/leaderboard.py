"""The leaderboard's table from scores: one row per checkpoint. Pure functions."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from kdharness.harness.analysis.leaderboard import unresolved
from kdharness.harness.analysis.metrics import flag_name, is_bookkeeping, is_lower_better
from kdharness.harness.analysis.tradeoff import choose_axes
from kdharness.harness.errors import ConfigError
from kdharness.harness.stats.metric_specs import CATEGORY, category_of
from kdharness.harness.types import Score
from kdharness.harness.util.text import figure

GAMING = {"same-answer", "talks-to-judge", "empty", "truncated", "other-language", "contaminated"}
MARKS = {
    "†": "the judge is a toy, untested or near chance: see its report card on Judges",
    "!": "suspicious answers: truncated, empty, repeated, addressed to the judge, contaminated",
    "°": "not the full standard benchmark: a subset, other references, limits or templates",
    "✗": "some answers or verdicts failed and are excluded",
    "¶": "a published score: another judge, other settings, no interval",
    "≈": "too close to the adjacent score to be ranked: the intervals overlap",
}


@dataclass(frozen=True)
class Figure:
    """One column: a benchmark's metric under one judge."""

    bench: str
    metric: str
    judge: str

    @property
    def key(self) -> str:
        """The column's name in rows and exports."""
        judge = "" if self.judge == "exact" else f"@{self.judge}"
        return f"{self.bench}:{self.metric}{judge}"

    @property
    def label(self) -> str:
        """`bench:metric`, as axes and settings name it."""
        return f"{self.bench}:{self.metric}"

    @property
    def lower_is_better(self) -> bool:
        """Whether lower values are better."""
        return is_lower_better(self.metric)

    @property
    def is_category(self) -> bool:
        """Whether it is one category of a benchmark."""
        return category_of(self.metric) is not None

    @property
    def title(self) -> str:
        """The metric as a column title."""
        if self.judge.startswith("published:"):
            return f"{self.metric.replace('_', ' ')} ¶"
        return self.metric.replace(CATEGORY, "").replace("_", " ")


@dataclass(frozen=True)
class Board:
    """Columns and rows; a row has values by column key, and `scores` by the same key."""

    figures: list[Figure]
    rows: list[dict[str, Any]]
    benches: list[str]

    def spread(self, key: str) -> tuple[float, float]:
        """Return the range that covers all intervals of one column."""
        ends: list[float] = []
        for row in self.rows:
            score = row["scores"].get(key)
            if score is not None and score.value is not None:
                ends += [
                    score.value if end is None else end
                    for end in (score.ci_low, score.value, score.ci_high)
                ]
        return (min(ends), max(ends)) if ends else (0.0, 1.0)


def arranged(
    figures: Sequence[Figure], first: Sequence[str], hidden: Collection[str]
) -> list[Figure]:
    """Return the columns in the user's order, without those the user hid.

    Columns that the user has not placed, such as those of a new benchmark, follow in their own
    order. If all are hidden, all are shown.
    """
    order = {key: index for index, key in enumerate(first)}
    shown = [figure for figure in figures if figure.key not in hidden] or list(figures)
    return sorted(shown, key=lambda figure: order.get(figure.key, len(order)))


FEW = 8
"""Scores of fewer items do not lead a table."""


def is_weak(scores: Sequence[Score]) -> bool:
    """Return whether scores are of too few items, or of a judge that is not to be trusted."""
    few = max((score.n for score in scores), default=0) < FEW
    return few or all("judge" in map(flag_name, score.flags) for score in scores)


def leading(scores: Sequence[Score], primary: Mapping[str, str]) -> list[str]:
    """Return the labels that lead: the chosen primary metrics, or the axes of the trade-off."""
    stored = {f"{score.bench}:{score.metric}" for score in scores if score.value is not None}
    chosen = {axis: label if label in stored else None for axis, label in primary.items()}
    try:
        x, y = choose_axes(scores, chosen.get("general"), chosen.get("domain"))
    except ConfigError:
        return [label for label in chosen.values() if label]
    return [y.label, x.label]


def make_board(
    scores: Sequence[Score],
    *,
    bench: str = "",
    categories: bool = False,
    lead: Sequence[str] = (),
) -> Board:
    """Build the table of some scores.

    Args:
        scores: the whole leaderboard.
        bench: only this benchmark; all of them if empty.
        categories: include each benchmark's categories as columns.
        lead: labels of the metrics that come first; weak scores come last.
    """
    benches = list(dict.fromkeys(score.bench for score in scores))
    columns: dict[tuple[str, str, str], tuple[Figure, str] | None] = {}
    shown: list[tuple[Score, Figure, str]] = []
    # Most scores are of categories: what is not shown is left out before anything is made of it.
    for score in scores:
        name = score.bench, score.metric, score.judge
        if name not in columns:
            column = Figure(*name)
            left_out = is_bookkeeping(score.metric) or (column.is_category and not categories)
            left_out |= bool(bench) and score.bench != bench
            columns[name] = None if left_out else (column, column.key)
        if (found := columns[name]) is not None:
            shown.append((score, *found))
    close = unresolved([score for score, _, _ in shown])
    figures: dict[Figure, list[Score]] = {}
    rows: dict[str, dict[str, Any]] = {}
    for score, column, key in shown:
        figures.setdefault(column, []).append(score)
        row = rows.setdefault(
            score.checkpoint,
            {
                "id": score.checkpoint,
                "method": score.method,
                "run": score.run or "",
                "scores": {},
                "close": set(),
            },
        )
        row[key] = score.value
        row["scores"][key] = score
        if (score.checkpoint, score.bench, score.metric, score.judge) in close:
            row["close"].add(key)

    def order(column: Figure) -> tuple[int, bool, int, bool]:
        rank = lead.index(column.label) if column.label in lead else len(lead)
        weak = is_weak(figures[column])
        return rank, weak, benches.index(column.bench), column.is_category

    ordered = sorted(figures, key=order)
    return Board(ordered, list(rows.values()), benches)


def marks_of(score: Score, close: bool) -> str:
    """Return the symbols after a score."""
    names = {flag.split(":")[0].split("=")[0] for flag in score.flags}
    marks = "†" if "judge" in names else ""
    marks += "!" if names & GAMING else ""
    marks += "°" if names - GAMING - {"judge"} else ""
    marks += "✗" if score.n_failed else ""
    return marks + ("≈" if close and score.value is not None else "")


def interval_width(score: Score) -> str:
    """Return how far the interval reaches: `±.03`, or `−.05+.2` if its sides are not equal.

    A side that the scale's end cuts to nothing is left out: 1 with [0.95, 1] is `−.05`.
    """
    if score.ci_low is None or score.ci_high is None or score.value is None:
        return ""
    below, above = score.value - score.ci_low, score.ci_high - score.value
    larger = max(below, above)
    if larger <= 0 or abs(below - above) <= 0.1 * larger:
        return f"±{_short((below + above) / 2, 2)}"
    parts = [f"{sign}{_short(side, 1)}" for sign, side in (("−", below), ("+", above)) if side > 0]
    return "".join(parts)


def _short(value: float, digits: int) -> str:
    text = figure(value, digits)
    return text.removeprefix("0") if text.startswith("0.") else text


def missing_sentence(row: Mapping[str, Any], wanted: Figure) -> str:
    """Return that a checkpoint has no such score, and what it was scored on."""
    benches = dict.fromkeys(score.bench for score in row["scores"].values())
    return (
        f"{row['id']} has no {wanted.bench} {wanted.title}; it was scored on {', '.join(benches)}"
    )


def sentence(score: Score, row_close: bool) -> str:
    """Return all details of one cell, in a line or two."""
    parts = [f"{score.checkpoint} · {score.bench} {score.metric}: {figure(score.value)}"]
    if score.ci_low is not None and score.ci_high is not None:
        parts[0] += f" [{figure(score.ci_low)}, {figure(score.ci_high)}]"
    parts.append(f"n={score.n}" + (f", {score.n_failed} failed" if score.n_failed else ""))
    parts.append("lower is better" if is_lower_better(score.metric) else "higher is better")
    parts.append(f"judge {score.judge}")
    if score.flags:
        parts.append(" ".join(score.flags))
    if row_close:
        parts.append("≈ overlaps the adjacent score")
    return " · ".join(parts)
