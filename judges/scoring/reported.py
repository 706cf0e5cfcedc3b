"""Scores of results made elsewhere: means over documents, or values with a standard error."""

from __future__ import annotations

import math
from collections.abc import Sequence

from kdharness.harness.stats.inference import Interval, agreeing
from kdharness.harness.stats.metric_specs import metric_spec
from kdharness.harness.stats.rows import (
    WHOLE,
    Row,
    ScoreContext,
    counted_once,
    metric_value,
)
from kdharness.harness.types import MetricValue
from kdharness.judges.scoring.metric_values import measure

NORMAL = 1.959964
"""Standard errors to either side of an interval of 95 %."""


def score_lm_eval(rows: Sequence[Row], context: ScoreContext) -> list[MetricValue]:
    """Score imported tasks: each metric over its documents, or as it was reported.

    `rows` have one or the other of each metric, as they are read (`stats.rows.newest_report`).
    """
    table: dict[str, list[Row]] = {}
    for row in counted_once(rows):
        table.setdefault(row.metric, []).append(row)
    return [_score(metric, part) for metric, part in table.items()]


def _score(metric: str, rows: Sequence[Row]) -> MetricValue:
    if rows[-1].item == WHOLE:
        return reported(metric, rows[-1])
    spec = metric_spec(metric)
    shares = all(0 <= (row.value or 0.0) <= 1 for row in rows)
    return measure(metric, rows, spec.bounds if shares else None)


def reported(metric: str, row: Row) -> MetricValue:
    """Return a reported value, with an interval if it came with a standard error.

    A standard error of 0 says that all documents agreed: the interval is then the one that scores
    made here have, or none where the documents cannot have agreed on that value.
    """
    value, n = (row.value or 0.0) / row.weight, round(row.weight)
    if row.stderr is None or not math.isfinite(row.stderr):
        return MetricValue(metric, value, None, None, n, 0)
    low, high = metric_spec(metric).bounds if 0 <= value <= 1 else (-math.inf, math.inf)
    if row.stderr == 0:
        if n < 2 or value not in (low, high):
            return MetricValue(metric, value, None, None, n, 0)
        return metric_value(metric, Interval(value, *agreeing(value, n, (low, high)), n), n, 0)
    half = NORMAL * row.stderr
    ends = max(value - half, low), min(value + half, high)
    return metric_value(metric, Interval(value, *ends, n), n, 0)
