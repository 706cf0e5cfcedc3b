"""Stored judgments as scorers see them: without the judge's text, each counted once."""

from __future__ import annotations

import math
import sys
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from kdharness.harness.stats.metric_specs import (
    BOTH_ORDERS,
    EXPECTED,
    EXPECTED_RATING,
    RATINGS,
    category_of,
    metric_spec,
    percent,
)
from kdharness.harness.types import Judgment, JudgmentStatus, MetricValue

if TYPE_CHECKING:
    from kdharness.harness.stats.inference import Interval

OK = JudgmentStatus.OK.value
WHOLE = "all"
"""The item of a value that another tool reported for a whole task."""
TOO_SMALL = "n-too-small"
"""The flag of a score without an interval, because it has too few questions."""
Sums = Mapping[str, tuple[float, float]]
"""Question -> (sum of values, sum of weights)."""
ALPHA = 0.05
"""Below it a p-value, corrected where several are looked at, counts as significant."""
LEAST_FOR_VERDICT = 5
"""With fewer questions nothing is reported as better or worse, whatever the interval."""


class Row(NamedTuple):
    """The columns of `Store.judgment_rows`.

    `len_1` and `len_2` are the characters of the baseline's and the model's answer; `published`
    is a score that only the benchmark's own script counts; `absent` marks an item that an
    imported file left out; `headers`, `lists` and `bold` are differences in style, the model's
    density of them minus the baseline's; `stderr` is the standard error of a value that was
    reported as a whole.
    """

    item: str
    turn: int
    category: str
    metric: str
    status: str
    value: float | None
    weight: float
    order: int
    baseline: str
    len_1: float | None
    len_2: float | None
    published: float | None
    absent: float | None
    created: float
    headers: float | None = None
    lists: float | None = None
    bold: float | None = None
    stderr: float | None = None


def from_judgments(judgments: Iterable[Judgment]) -> list[Row]:
    """Convert judgments in memory to rows."""
    return [
        Row(
            j.item,
            j.turn,
            j.category,
            j.metric,
            j.status.value,
            j.value,
            j.weight,
            j.order,
            j.baseline,
            j.info.get("len_1"),
            j.info.get("len_2"),
            j.info.get("published"),
            j.info.get("absent"),
            j.created,
            j.info.get("headers"),
            j.info.get("lists"),
            j.info.get("bold"),
            j.info.get("stderr"),
        )
        for j in judgments
    ]


def counted_once(rows: Sequence[Row]) -> list[Row]:
    """Keep one row per judged answer: the newest one with a verdict.

    A re-run appended to the same file, as FastChat does, would otherwise count twice. `rows` are
    ordered oldest first.
    """
    places = {item: _place(item) for item in {row.item for row in rows}}
    kept: dict[tuple[tuple[int, str], int, str, int, str], Row] = {}
    for row in rows:
        item, turn, _, metric, status, _, _, order, baseline = row[:9]
        # A rating depends on the answer alone, even in benchmarks that also compare pairs.
        key = (places[item], turn, metric, order, "" if metric in RATINGS else baseline)
        if status == OK or key not in kept or kept[key].status != OK:
            kept[key] = row
    # Scores must not depend on the order of judgments: float sums do, and so do the folds of the
    # length control, which upstream splits in the order of the dataset.
    return [row for _, row in sorted(kept.items())]


def newest_report(rows: Sequence[Row]) -> list[Row]:
    """Keep each metric's documents or its value of the whole task, whichever is newer.

    A task imported with samples has a row per document, one without has a single row; both can be
    there. `rows` are those of an imported task.
    """
    newest: dict[str, tuple[float, bool]] = {}
    for row in rows:
        found = (row.created, row.item == WHOLE)
        newest[row.metric] = max(newest.get(row.metric, found), found)
    return [row for row in rows if (row.item == WHOLE) == newest[row.metric][1]]


def _place(item: str) -> tuple[int, str]:
    """Return a sort key: numbered items by number, before all others."""
    return (int(item), item) if item.isdecimal() else (sys.maxsize, item)


@dataclass(frozen=True)
class ScoreContext:
    """What scorers get besides the rows.

    Attributes:
        as_published: read the rows as the benchmark's own scripts do: re-runs count again, and
            AlpacaEval's difficulties are assigned by row position.
        asset: returns the path of a pulled file (asset, name), or None.
        note: the stored note on the benchmark's revision.
    """

    as_published: bool = False
    asset: Callable[[str, str], Path | None] = lambda _asset, _name: None
    note: dict[str, Any] = field(default_factory=dict)


def complete(rows: Iterable[Row]) -> list[Row]:
    """Return the rows of matches with a verdict in both orders."""
    good = [row for row in rows if row.status == OK and row.value is not None]
    orders = {(row.item, row.metric, row.baseline, row.order) for row in good}
    sides = Counter(key[:3] for key in orders)
    both = {match for match, count in sides.items() if count == 2}
    return [row for row in good if (row.item, row.metric, row.baseline) in both]


def _counted(rows: Sequence[Row]) -> list[Row]:
    """Return the rows that means are made of."""
    both = complete(row for row in rows if row.metric in BOTH_ORDERS)
    rest = [row for row in rows if row.metric not in BOTH_ORDERS and row.value is not None]
    return [*both, *rest]


def question_sums(rows: Sequence[Row], metric: str) -> dict[str, tuple[float, float]]:
    """Map each question to the (sum, weight) of the rows in a metric's mean."""
    kept = _counted(counted_once(rows))
    part, category = metric, category_of(metric)
    if metric.startswith(EXPECTED) and metric != EXPECTED_RATING:
        kept = [row for row in kept if row.metric == EXPECTED_RATING]
        part = metric.removeprefix(EXPECTED)
    elif metric != EXPECTED_RATING:
        # An expected rating never counts for another metric, unless there is nothing else.
        kept = [row for row in kept if row.metric != EXPECTED_RATING] or kept
    if part.startswith("turn_"):
        kept = [row for row in kept if row.turn == int(part.removeprefix("turn_"))]
    elif category is not None:
        kept = [row for row in kept if row.category == category]
    elif any(row.metric == metric for row in kept):
        kept = [row for row in kept if row.metric == metric]
    table: dict[str, list[float]] = {}
    for row in kept:
        cell = table.setdefault(row.item, [0.0, 0.0])
        value = row.value or 0.0
        cell[0] += percent(value) if row.metric == "preference" else value
        cell[1] += row.weight
    return {item: (cell[0], cell[1]) for item, cell in table.items()}


def sums_of_score(
    rows: Sequence[Row], metric: str, value: float
) -> dict[str, tuple[float, float]] | None:
    """Return `question_sums` of these rows; None if the score `value` is not their mean."""
    sums = question_sums(rows, metric)
    if not math.fsum(weight for _, weight in sums.values()):
        return None
    mean = mean_of(sums)
    return sums if abs(mean - value) <= 1e-6 * max(1.0, abs(value)) else None


def mean_of(sums: Sums) -> float:
    """Return the mean over questions' (sum, weight), which weigh more than 0 together."""
    return math.fsum(value for value, _ in sums.values()) / math.fsum(w for _, w in sums.values())


def outcome_of(orders: Sequence[float]) -> float:
    """Return one outcome of a match judged in both orders: a win counts only if they agree."""
    first, second = orders
    return first if first == second and first in (0.0, 1.0) else 0.5


def metric_value(
    name: str,
    interval: Interval | None,
    n: int,
    n_failed: int,
    *,
    scale: float = 1.0,
    flags: tuple[str, ...] = (),
) -> MetricValue:
    """Convert an interval into a score; it is empty for None, and flagged without bounds."""
    if interval is None:
        return MetricValue(name, None, None, None, n, n_failed, flags)
    if interval.low is None or interval.high is None:
        return MetricValue(
            name, interval.value * scale, None, None, n, n_failed, (*flags, TOO_SMALL)
        )
    return MetricValue(
        name,
        interval.value * scale,
        interval.low * scale,
        interval.high * scale,
        n,
        n_failed,
        flags,
    )


def about(flags: Sequence[str], only: Mapping[str, Sequence[str]], metric: str) -> tuple[str, ...]:
    """Return the flags that apply to a metric; `only` limits flags to metrics by prefix."""
    if not only:
        return tuple(flags)
    return tuple(flag for flag in flags if metric.startswith(tuple(only.get(flag, ("",)))))


def value_range(rows: Sequence[Row], metric: str) -> tuple[float, float] | None:
    """Return the lowest and highest possible mean of `question_sums` of these rows.

    Preferences count in percent. None if there is no upper bound (losses), or if rows of several
    kinds are combined.
    """
    kinds = {row.metric for row in rows}
    if kinds == {"preference"}:
        return 0.0, 100.0
    spec = metric_spec(kinds.pop() if len(kinds) == 1 else metric)
    if math.isinf(spec.high) or kinds & {*RATINGS, "preference"}:
        return None
    return spec.bounds
