"""Stored judgments as a scorer sees them: without the judge's words, each counted once."""

from __future__ import annotations

import math
import sys
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

from kdharness.harness.stats.metric_specs import metric_spec, percent
from kdharness.harness.types import Judgment, JudgmentStatus

OK = JudgmentStatus.OK.value
TOO_SMALL = "n-too-small"
"""The mark of a figure that has no interval because too few questions are behind it."""
LEAST_FOR_VERDICT = 5
"""With fewer questions nothing is called better or worse, whatever its interval."""


class Row(NamedTuple):
    """The columns of `Store.judgment_rows`.

    `len_1` and `len_2` are the characters of the baseline's and the model's answer; `published`
    is a score that only the benchmark's own script counts; `absent` marks an item that an
    imported file left out.
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


def from_judgments(judgments: Iterable[Judgment]) -> list[Row]:
    """Rows of judgments that are already in memory."""
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
        )
        for j in judgments
    ]


def counted_once(rows: Sequence[Row]) -> list[Row]:
    """One row for each thing that was to be judged: the newest that holds a verdict.

    A re-run appended to one file, as FastChat does it, would otherwise count twice. `rows` come
    oldest first.
    """
    kept: dict[tuple[str, int, str, int, str], Row] = {}
    for row in rows:
        # A rating is of the answer alone, whatever its benchmark compares beside it.
        other = "" if row.metric == "rating" else row.baseline
        key = (row.item, row.turn, row.metric, row.order, other)
        if row.status == OK or key not in kept or kept[key].status != OK:
            kept[key] = row
    # Figures must not depend on which verdict came first: sums of floats do on their order, and
    # so do the folds of the length control, which upstream cuts in the data set's order.
    return [kept[key] for key in sorted(kept, key=lambda key: (_place(key[0]), key[1:]))]


def _place(item: str) -> tuple[int, str]:
    """Sorts numbered items by number, which is their place in the benchmark, before others."""
    return (int(item), item) if item.isdecimal() else (sys.maxsize, item)


@dataclass(frozen=True)
class ScoreContext:
    """What a scorer may know besides the rows.

    Attributes:
        as_published: read the rows as the benchmark's own scripts would: re-runs count again,
            and AlpacaEval's difficulties go by row position.
        asset: finds a pulled file (asset, name) or returns None.
        note: what was stored about the benchmark's revision.
    """

    as_published: bool = False
    asset: Callable[[str, str], Path | None] = lambda _asset, _name: None
    note: dict[str, Any] = field(default_factory=dict)


def question_sums(rows: Sequence[Row], metric: str) -> dict[str, tuple[float, float]]:
    """Question -> (sum, weight) of the rows that a metric's mean is made of."""
    kept = [row for row in counted_once(rows) if row.value is not None]
    if metric.startswith("turn_"):
        kept = [row for row in kept if row.turn == int(metric.removeprefix("turn_"))]
    elif metric.startswith("category:"):
        kept = [row for row in kept if row.category == metric.removeprefix("category:")]
    elif any(row.metric == metric for row in kept):
        kept = [row for row in kept if row.metric == metric]
    table: dict[str, list[float]] = {}
    for row in kept:
        cell = table.setdefault(row.item, [0.0, 0.0])
        value = row.value or 0.0
        cell[0] += percent(value) if row.metric == "preference" else value
        cell[1] += row.weight
    return {item: (cell[0], cell[1]) for item, cell in table.items()}


def about(flags: Sequence[str], only: Mapping[str, Sequence[str]], metric: str) -> tuple[str, ...]:
    """The marks that are about a metric; `only` names those that are about some, by beginnings."""
    return tuple(flag for flag in flags if metric.startswith(tuple(only.get(flag, ("",)))))


def value_range(rows: Sequence[Row], metric: str) -> tuple[float, float] | None:
    """The lowest and highest mean that `question_sums` of these rows could have.

    Preferences count in percent. None where there is no highest (losses), or where rows of
    several kinds are put together.
    """
    kinds = {row.metric for row in rows}
    if kinds == {"preference"}:
        return 0.0, 100.0
    spec = metric_spec(kinds.pop() if len(kinds) == 1 else metric)
    if math.isinf(spec.high) or kinds & {"rating", "preference"}:
        return None
    return spec.bounds
