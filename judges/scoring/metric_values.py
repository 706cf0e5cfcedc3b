"""The value of a metric with its interval over questions, from rows."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence

from kdharness.harness.stats.inference import ratio_interval
from kdharness.harness.stats.rows import OK, Row, metric_value
from kdharness.harness.types import MetricValue

Bounds = tuple[float, float]


def sums(
    rows: Iterable[Row], value: Callable[[Row], float] | None = None
) -> dict[str, list[float]]:
    """Return question -> [sum of values, sum of weights] over the rows with a verdict."""
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
    """Return the weighted mean of some rows, with its interval over questions."""
    n = sum(1 for row in rows if row.status == OK)
    return measured(
        name, sums(rows, value), bounds, n=n, failed=len(rows) - n, scale=scale, flags=flags
    )


def measured(
    name: str,
    table: Mapping[str, Sequence[float]],
    bounds: Bounds | None,
    *,
    n: int,
    failed: int = 0,
    scale: float = 1.0,
    flags: tuple[str, ...] = (),
) -> MetricValue:
    """Return the ratio of sums, with its interval over questions.

    Args:
        table: question -> (sum of values, sum of weights).
        n, failed: the rows with a verdict and those without.
    """
    interval = ratio_interval(
        [cell[0] for cell in table.values()], [cell[1] for cell in table.values()], bounds=bounds
    )
    return metric_value(name, interval, n, failed, scale=scale, flags=flags)


def by_category(rows: Sequence[Row]) -> dict[str, list[Row]]:
    """Return the rows of each category, sorted by name."""
    table: dict[str, list[Row]] = {}
    for row in rows:
        table.setdefault(row.category, []).append(row)
    return dict(sorted(table.items()))
