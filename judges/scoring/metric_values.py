"""Rows of one metric as a value with its interval over questions."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence

from kdharness.harness.stats.inference import Interval, ratio_interval
from kdharness.harness.stats.rows import OK, TOO_SMALL, Row
from kdharness.harness.types import MetricValue

Bounds = tuple[float, float]


def sums(
    rows: Iterable[Row], value: Callable[[Row], float] | None = None
) -> dict[str, list[float]]:
    """Question -> [sum of values, sum of weights] over the rows that hold a verdict."""
    table: dict[str, list[float]] = {}
    for row in rows:
        if row.status != OK or row.value is None:
            continue
        cell = table.setdefault(row.item, [0.0, 0.0])
        cell[0] += row.value if value is None else value(row)
        cell[1] += row.weight
    return table


def measure(
    name: str,
    rows: Sequence[Row],
    bounds: Bounds | None,
    *,
    value: Callable[[Row], float] | None = None,
    scale: float = 1.0,
    flags: tuple[str, ...] = (),
) -> MetricValue:
    """The weighted mean of some rows, with its interval over questions."""
    table = sums(rows, value)
    n = sum(1 for row in rows if row.status == OK)
    found = ratio_interval(
        [cell[0] for cell in table.values()], [cell[1] for cell in table.values()], bounds=bounds
    )
    return metric_value(name, found, n, len(rows) - n, scale=scale, flags=flags)


def metric_value(
    name: str,
    found: Interval | None,
    n: int,
    n_failed: int,
    *,
    scale: float = 1.0,
    flags: tuple[str, ...] = (),
) -> MetricValue:
    """An interval as a figure; no interval is no figure, and one without ends is marked."""
    if found is None:
        return MetricValue(name, None, None, None, n, n_failed, flags)
    if found.low is None or found.high is None:
        return MetricValue(name, found.value * scale, None, None, n, n_failed, (*flags, TOO_SMALL))
    return MetricValue(
        name, found.value * scale, found.low * scale, found.high * scale, n, n_failed, flags
    )


def by_category(rows: Sequence[Row]) -> dict[str, list[Row]]:
    """Rows of each category, in the order they first appear by name."""
    table: dict[str, list[Row]] = {}
    for row in rows:
        table.setdefault(row.category, []).append(row)
    return dict(sorted(table.items()))
