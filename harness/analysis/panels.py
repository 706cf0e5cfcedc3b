"""Panels: several judges aggregated into one, and their agreement."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from itertools import combinations
from statistics import median

from kdharness.harness.stats.agreement import cohen_kappa, spearman
from kdharness.harness.stats.metric_specs import RATINGS, metric_spec
from kdharness.harness.stats.rows import OK, Row, counted_once
from kdharness.harness.types import MetricValue

Key = tuple[str, int, str, int, str]
CHANCE = 0.2
"""Below this agreement (rank correlation or kappa) a panel gets the flag `few-agree`."""


def by_key(rows: Sequence[Row]) -> dict[Key, Row]:
    """Index rows by what was judged."""
    return {(r.item, r.turn, r.metric, r.order, r.baseline): r for r in counted_once(rows)}


def merged(rows: Mapping[str, Sequence[Row]], how: str = "mean") -> list[Row]:
    """Merge judges into one row per judged answer; rows not judged by *all* count as failed.

    A mean over the available judges would mix judges of different strictness. Verdicts that count
    several times, as Arena-Hard's clear ones, do so for their judge: the merged row has the mean
    weight.

    Args:
        how: `mean`, `median`, or `majority` (of better, worse, draw: for preferences).
    """
    tables = [by_key(part) for part in rows.values()]
    merged_rows = []
    for key in dict.fromkeys(key for table in tables for key in table):
        members = [table.get(key) for table in tables]
        given = [
            (row.value, row.weight)
            for row in members
            if row is not None and row.status == OK
            if row.value is not None
        ]
        first = next(row for row in members if row is not None)
        if len(given) < len(tables):
            merged_rows.append(first._replace(status="failed", value=None))
        else:
            value, weight = _combined(given, how, first.metric)
            merged_rows.append(first._replace(status=OK, value=value, weight=weight))
    return merged_rows


def _combined(given: Sequence[tuple[float, float]], how: str, metric: str) -> tuple[float, float]:
    """Return the value and weight of several judges' (value, weight)."""
    weight = sum(weight for _, weight in given) / len(given)
    shares = [value / each if each else value for value, each in given]
    if how == "median":
        return float(median(shares)) * weight, weight
    if how == "majority":
        spec = metric_spec(metric)
        total = sum(map(spec.sign, shares))
        return ((spec.middle or 0.0) + 0.5 * ((total > 0) - (total < 0))) * weight, weight
    return sum(value for value, _ in given) / len(given), weight


def agreement(rows: Mapping[str, Sequence[Row]]) -> dict[str, float | None]:
    """Compute the agreement of judges, averaged over pairs of judges.

    Returns:
        For ratings `spearman` and `mean_difference` (points), for preferences and pairs
        `kappa` (Cohen's, over better, worse and draw). None where nothing varies.
    """
    tables = [by_key(part) for part in rows.values()]
    agreements: dict[str, list[float]] = {}
    for table, other in combinations(tables, 2):
        shared = [
            (a.value / (a.weight or 1), b.value / (b.weight or 1), a.metric)
            for key, a in table.items()
            if (b := other.get(key)) is not None and a.value is not None and b.value is not None
        ]
        if not shared:
            continue
        left, right = [float(s[0]) for s in shared], [float(s[1]) for s in shared]
        if shared[0][2] in RATINGS:
            rank = spearman(left, right)
            if rank is not None:
                agreements.setdefault("spearman", []).append(rank)
            gaps = [abs(a - b) for a, b in zip(left, right, strict=True)]
            agreements.setdefault("mean_difference", []).append(sum(gaps) / len(gaps))
        else:
            sign = metric_spec(shared[0][2]).sign
            kappa = cohen_kappa(list(map(sign, left)), list(map(sign, right)))
            if kappa is not None:
                agreements.setdefault("kappa", []).append(kappa)
    return {name: sum(values) / len(values) for name, values in agreements.items()}


def panel_figures(
    rows: Mapping[str, Sequence[Row]],
    score: Callable[[Sequence[Row]], list[MetricValue]],
    how: str = "mean",
) -> list[MetricValue]:
    """Score the panel with the benchmark's scorer, and add the agreement as metrics."""
    values = score(merged(rows, how))
    if how != "mean":
        values = [v._replace(flags=(*v.flags, f"panel:{how}")) for v in values]
    agreed = agreement(rows)
    strength = agreed.get("spearman", agreed.get("kappa"))
    if strength is not None and strength < CHANCE:
        values = [v._replace(flags=(*v.flags, "few-agree")) for v in values]
    n = values[0].n if values else 0
    return values + [
        MetricValue(f"agreement_{name}", share, None, None, n) for name, share in agreed.items()
    ]
