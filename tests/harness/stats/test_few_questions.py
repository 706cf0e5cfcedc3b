"""Confidence intervals for very few items keep their nominal coverage."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.stats import binomtest, t

from kdharness.harness.stats.inference import (
    FEW,
    LEAST,
    mean_intervals,
    paired_difference,
    ratio_interval,
)
from kdharness.harness.stats.plane import AnsweredItems, Plane
from kdharness.harness.stats.rows import Row, value_range
from kdharness.harness.stats.tradeoff import pick, trade_off_stats
from support.interval_coverage import DATA, FIGURES, SIZES, coverage, documented
from support.scored_store import sums

# ---------------------------------------------------------------- intervals


@pytest.mark.slow
@pytest.mark.parametrize("n", [3, 5, 7])
@pytest.mark.parametrize("score", sorted(FIGURES))
def test_interval_coverage_on_normal_data(score: str, n: int) -> None:
    """With three items, one in four bootstrap intervals missed the true value."""
    assert coverage(score, "normal", n, 400) >= 0.925


def test_documented_coverage_is_near_the_level() -> None:
    table = documented()
    assert len(table) == len(FIGURES) * len(DATA) * len(SIZES)
    for (_, distribution, _), expected in table.items():
        assert expected >= (0.93 if distribution == "normal" else 0.90)


@pytest.mark.slow
@pytest.mark.parametrize("distribution", sorted(DATA))
@pytest.mark.parametrize("score", sorted(FIGURES))
def test_documented_coverage_matches_measured_coverage(score: str, distribution: str) -> None:
    """At the least and the most questions of the table, and on both sides of another method."""
    for n in (LEAST, FEW - 1, FEW, SIZES[-1]):
        expected = documented()[score, distribution, n]
        assert abs(coverage(score, distribution, n) - expected) < 0.012, n


@pytest.mark.parametrize("n", [1, 2])
def test_no_interval_below_three_items(n: int) -> None:
    estimate = ratio_interval([1.0, 0.0][:n], [1.0] * n, bounds=(0.0, 1.0))
    assert estimate is not None and (estimate.low, estimate.high, estimate.n) == (None, None, n)
    constant = ratio_interval([1.0] * n, [1.0] * n, bounds=(0.0, 1.0))
    assert constant is not None and constant.low is None
    for column in mean_intervals(np.ones((n, 2)), bounds=(0.0, 1.0)):
        assert column.low is None


@given(st.lists(st.floats(-100, 100), min_size=3, max_size=7))
def test_few_items_get_a_student_t_interval(values: list[float]) -> None:
    estimate = ratio_interval(values, [1.0] * len(values))
    assert estimate is not None and estimate.low is not None and estimate.high is not None
    mean, spread = float(np.mean(values)), float(np.std(values, ddof=1))
    if spread > 1e-6:
        half_width = float(t.ppf(0.975, len(values) - 1)) * spread / math.sqrt(len(values))
        assert estimate.low == pytest.approx(mean - half_width, rel=1e-6, abs=1e-6)
        assert estimate.high == pytest.approx(mean + half_width, rel=1e-6, abs=1e-6)
    (column,) = mean_intervals(np.array(values)[:, None])
    assert column.low == pytest.approx(estimate.low) and column.high == pytest.approx(estimate.high)


def test_intervals_are_clipped_to_the_metric_bounds() -> None:
    estimate = ratio_interval([1.0, 0.1, 1.0], [1.0] * 3, bounds=(0.0, 1.0))
    assert estimate is not None and (estimate.low, estimate.high) == (0.0, 1.0)
    ratings = ratio_interval([20.0, 18.0, 20.0], [2.0] * 3, bounds=(1.0, 10.0))
    assert ratings is not None and ratings.high == 10.0 and 5 < (ratings.low or 0) < 9


@pytest.mark.parametrize("n", range(3, 8))
def test_binary_coverage_at_every_proportion(n: int) -> None:
    """Student's t covered only 87 % with one or two of seven correct; enumerate all outcomes."""
    intervals = [
        ratio_interval([1.0] * k + [0.0] * (n - k), [1.0] * n, bounds=(0.0, 1.0))
        for k in range(n + 1)
    ]
    for k, interval in enumerate(intervals):
        assert interval is not None and interval.low is not None and interval.high is not None
        if 0 < k < n:
            exact = binomtest(k, n).proportion_ci(0.95, method="exact")
            assert (interval.low, interval.high) == pytest.approx((exact.low, exact.high), abs=1e-9)
    for share in np.linspace(0.01, 0.99, 99):
        probabilities = [math.comb(n, k) * share**k * (1 - share) ** (n - k) for k in range(n + 1)]
        covered = [
            interval is not None and (interval.low or 0) <= share <= (interval.high or 0)
            for interval in intervals
        ]
        assert sum(c for c, h in zip(probabilities, covered, strict=True) if h) >= 0.95


def test_identical_differences_keep_a_nonzero_interval() -> None:
    difference = paired_difference(sums(1, 1, 1, 1), sums(0, 0, 0, 0), bounds=(0.0, 1.0))
    assert difference is not None and (difference.low or 0) < 0 and difference.high == 1.0
    same = paired_difference(sums(1, 1, 1, 1), sums(1, 1, 1, 1), bounds=(0.0, 1.0))
    assert same is not None and same.low == -(same.high or 0) and (same.high or 0) > 0.5
    # Bounds that the values exceed are ignored.
    out_of_bounds = paired_difference(sums(5, 6, 7), sums(0, 0, 0), bounds=(0.0, 1.0))
    assert out_of_bounds is not None and (out_of_bounds.high or 0) > 7
    two = paired_difference(sums(1, 3), sums(0, 0))
    assert two is not None
    assert (two.value, two.low, two.high, two.n_needed, two.n) == (2.0, None, None, None, 2)


@pytest.mark.parametrize(
    ("metric", "kinds", "expected"),
    [
        ("score", ["rating"], (1.0, 10.0)),
        ("win_rate", ["preference"], (0.0, 100.0)),
        ("score", ["accuracy", "json_f1"], (0.0, 1.0)),
        ("general_loss", ["general_loss"], None),
        ("general_kl", ["general_kl"], None),
        ("general_agreement", ["general_agreement"], (0.0, 1.0)),
        ("score", ["rating", "accuracy"], None),
    ],
)
def test_value_range_of_a_metric(metric: str, kinds: list[str], expected: Any) -> None:
    rows = [
        Row("i", 1, "", kind, "ok", 1.0, 1.0, 0, "", None, None, None, None, 0.0) for kind in kinds
    ]
    assert value_range(rows, metric) == expected


# ---------------------------------------------------------------- trade-off


def few_item_checkpoints(n: int, spread: float = 0.01) -> list[AnsweredItems]:
    rng = np.random.default_rng(n)
    levels = {"ref": (1.0, 0.2), "expert": (0.5, 0.9), "dae": (0.95, 0.8), "low": (0.95, 0.3)}
    return [
        AnsweredItems(name, sums(*rng.normal(g, spread, n)), sums(*rng.normal(d, spread, n)))
        for name, (g, d) in levels.items()
    ]


def test_trade_off_draws_no_conclusions_from_few_items() -> None:
    for n in (1, 2, 3, 4, 6):
        stats = trade_off_stats(few_item_checkpoints(n), Plane("ref", "expert"), resamples=200)
        point = next(p for p in stats.points if p.checkpoint == "dae")
        assert point.retention is not None and (point.retention.low is None) == (n < 3)
        assert stats.draws.gain_known == (n >= 3)
        chosen = pick(stats, 0.9)
        assert (chosen is None) == (n < 3)
        if chosen is not None:
            assert chosen.checkpoint == "dae" and chosen.sure == (n >= 5)
            assert set(chosen.rivals) == ({"ref", "low"} if n < 5 else set())
        assert any("too few questions" in note for note in stats.notes) == (n < 5)
    # Retention is exactly 1 for the reference by definition, not for equal-looking checkpoints.
    same = [AnsweredItems(name, sums(1, 1, 1), sums(0.1, 0.3, 0.2)) for name in ("ref", "dae")]
    ref, dae = trade_off_stats(same, Plane("ref"), resamples=200).points
    assert ref.retention is not None and (ref.retention.low, ref.retention.high) == (1.0, 1.0)
    assert dae.retention is not None and dae.retention.low is None
