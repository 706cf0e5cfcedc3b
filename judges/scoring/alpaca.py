"""AlpacaEval's scores from preferences: win rates, counts, and the length-controlled rate.

A preference is in 1-2, with 2 for the model; p = preference - 1.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from kdharness.harness.stats.inference import Interval, mean_intervals, ratio_interval
from kdharness.harness.stats.metric_specs import SHARE
from kdharness.harness.stats.rows import OK, Row, ScoreContext, counted_once, metric_value
from kdharness.harness.types import MetricValue
from kdharness.judges.scoring import length_control as lc

Floats = NDArray[np.float64]

LEAST_FOR_LENGTH = 20
"""Minimum number of rows for a length-controlled fit."""


def score_preferences(rows: Sequence[Row], context: ScoreContext) -> list[MetricValue]:
    """Return version 1's scores, which are also version 2's raw scores."""
    return _raw_figures(rows if context.as_published else counted_once(rows))


def _raw_figures(rows: Sequence[Row]) -> list[MetricValue]:
    good = [row for row in rows if row.status == OK and row.value is not None]
    n, failed = len(good), len(rows) - len(good)
    p = np.array([row.value for row in good], dtype=np.float64) - 1
    discrete = (np.sign(p - 0.5) + 1) / 2
    wins, losses = int((p > 0.5).sum()), int((p < 0.5).sum())
    rate, plain = _intervals([row.item for row in good], p, discrete)
    lengths = [row.len_2 for row in rows if row.len_2 is not None]
    counts: dict[str, float | None] = {
        "standard_error": float(100 * np.std(p, ddof=1) / np.sqrt(n)) if n > 1 else None,
        "n_wins": wins if n else None,
        "n_wins_base": losses if n else None,
        "n_draws": n - wins - losses if n else None,
        "n_total": n,
        # Whole characters, as in the published tables.
        "avg_length": int(sum(lengths) / len(lengths)) if lengths else None,
    }
    return [
        metric_value("win_rate", rate, n, failed, scale=100),
        metric_value("discrete_win_rate", plain, n, failed, scale=100),
        *(MetricValue(name, value, None, None, n, failed) for name, value in counts.items()),
    ]


def _intervals(items: list[str], p: Floats, discrete: Floats) -> list[Interval | None]:
    """Return intervals of the weighted and the discrete rate, over questions."""
    if not len(p):
        return [None, None]
    if len(set(items)) == len(items):
        return list(mean_intervals(np.stack([p, discrete], axis=1), bounds=SHARE.bounds))
    indices = {item: index for index, item in enumerate(dict.fromkeys(items))}
    index = np.array([indices[item] for item in items])
    weights = np.bincount(index).astype(np.float64)
    sums = [np.bincount(index, weights=x) for x in (p, discrete)]
    return [ratio_interval(list(top), list(weights), bounds=SHARE.bounds) for top in sums]


def score_alpaca_eval_2(rows: Sequence[Row], context: ScoreContext) -> list[MetricValue]:
    """Return version 2's scores, with the length-controlled win rate."""
    kept = rows if context.as_published else counted_once(rows)
    return _raw_figures(kept) + length_controlled(kept, context)


def length_controlled(rows: Sequence[Row], context: ScoreContext) -> list[MetricValue]:
    """Return the official variant if its files are available, else the difficulty-free one.

    `rows` are already deduplicated, unless they are read as published.
    """
    rows_with_lengths = [row for row in rows if row.len_1 is not None and not row.absent]
    p = (
        np.array(
            [row.value if row.status == OK else None for row in rows_with_lengths], dtype=np.float64
        )
        - 1
    )
    n = int((~np.isnan(p)).sum())
    failed = len(rows) - n
    if n < LEAST_FOR_LENGTH or float(np.nanmin(p)) == float(np.nanmax(p)):
        return []
    len_1 = np.array([row.len_1 for row in rows_with_lengths], dtype=np.float64)
    len_2 = np.array([row.len_2 for row in rows_with_lengths], dtype=np.float64)
    files = [context.asset(lc.ASSET, name) for name in (lc.DIFFICULTY_FILE, lc.GAMED_FILE)]
    if files[0] is not None and files[1] is not None and not context.note.get("own_items"):
        table = lc.read_difficulty(files[0])
        indices = _places(rows_with_lengths, context.as_published)
        result = lc.official(p, len_1, len_2, table[indices], lc.read_gamed(files[1]))
    else:
        result = lc.difficulty_free(p, len_1, len_2)
    flags = (f"lc:{result.variant}", f"C={result.c:.6g}")
    scores = [metric_value("length_controlled_winrate", result.rate, n, failed, flags=flags)]
    if result.variant == "official":
        scores.append(MetricValue("lc_standard_error", result.spread, None, None, n, failed, flags))
    return scores


def _places(rows: Sequence[Row], by_position: bool) -> list[int]:
    """Return the index of each row's difficulty: by instruction, or by row as upstream counts."""
    indices = [int(row.item) for row in rows]
    if not by_position:
        return indices
    # Upstream counts rows, so difficulties shift after a missing one.
    order = {item: index for index, item in enumerate(sorted(set(indices)))}
    return [order[item] for item in indices]
