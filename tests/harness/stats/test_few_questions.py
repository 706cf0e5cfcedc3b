"""A handful of questions: intervals that hold what they say."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import binomtest, t

from kdharness.harness.stats.inference import (
    mean_intervals,
    paired_difference,
    ratio_interval,
)
from kdharness.harness.stats.rows import Row, value_range
from kdharness.harness.stats.tradeoff import AnsweredItems, Plane, pick, trade_off_stats
from support.interval_coverage import DATA, FIGURES, SIZES, coverage, documented
from support.scored_store import sums

# ---------------------------------------------------------------- intervals


@pytest.mark.parametrize("n", [3, 5, 7])
@pytest.mark.parametrize("figure", sorted(FIGURES))
def test_normal_data_are_covered(figure: str, n: int) -> None:
    """Of the bootstrap's intervals of three questions, one in four missed the truth."""
    assert coverage(figure, "normal", n, 400) >= 0.925


@pytest.mark.slow
def test_the_documented_coverage_is_measured() -> None:
    table = documented()
    assert len(table) == len(FIGURES) * len(DATA) * len(SIZES)
    for (figure, kind, n), share in table.items():
        assert abs(coverage(figure, kind, n) - share) < 0.012, (figure, kind, n)
        assert share >= (0.93 if kind == "normal" else 0.90)


@pytest.mark.parametrize("n", [1, 2])
def test_two_questions_have_no_interval(n: int) -> None:
    found = ratio_interval([1.0, 0.0][:n], [1.0] * n, bounds=(0.0, 1.0))
    assert found is not None and (found.low, found.high, found.n) == (None, None, n)
    alike = ratio_interval([1.0] * n, [1.0] * n, bounds=(0.0, 1.0))
    assert alike is not None and alike.low is None
    for part in mean_intervals(np.ones((n, 2)), bounds=(0.0, 1.0)):
        assert part.low is None


@settings(deadline=None)
@given(st.lists(st.floats(-100, 100), min_size=3, max_size=7))
def test_a_handful_has_students_interval(values: list[float]) -> None:
    found = ratio_interval(values, [1.0] * len(values))
    assert found is not None and found.low is not None and found.high is not None
    mean, spread = float(np.mean(values)), float(np.std(values, ddof=1))
    if spread > 1e-6:
        reach = float(t.ppf(0.975, len(values) - 1)) * spread / math.sqrt(len(values))
        assert found.low == pytest.approx(mean - reach, rel=1e-6, abs=1e-6)
        assert found.high == pytest.approx(mean + reach, rel=1e-6, abs=1e-6)
    (column,) = mean_intervals(np.array(values)[:, None])
    assert column.low == pytest.approx(found.low) and column.high == pytest.approx(found.high)


def test_intervals_stay_within_the_metric() -> None:
    found = ratio_interval([1.0, 0.1, 1.0], [1.0] * 3, bounds=(0.0, 1.0))
    assert found is not None and (found.low, found.high) == (0.0, 1.0)
    ratings = ratio_interval([20.0, 18.0, 20.0], [2.0] * 3, bounds=(1.0, 10.0))
    assert ratings is not None and ratings.high == 10.0 and 5 < (ratings.low or 0) < 9


@pytest.mark.parametrize("n", range(3, 8))
def test_right_or_wrong_is_covered_whatever_the_share(n: int) -> None:
    """Student's t covered 87 % where one of two of seven answers is right: exactly, by counting."""
    found = [
        ratio_interval([1.0] * k + [0.0] * (n - k), [1.0] * n, bounds=(0.0, 1.0))
        for k in range(n + 1)
    ]
    for k, one in enumerate(found):
        assert one is not None and one.low is not None and one.high is not None
        if 0 < k < n:
            exact = binomtest(k, n).proportion_ci(0.95, method="exact")
            assert (one.low, one.high) == pytest.approx((exact.low, exact.high), abs=1e-9)
    for share in np.linspace(0.01, 0.99, 99):
        chance = [math.comb(n, k) * share**k * (1 - share) ** (n - k) for k in range(n + 1)]
        held = [one is not None and (one.low or 0) <= share <= (one.high or 0) for one in found]
        assert sum(c for c, h in zip(chance, held, strict=True) if h) >= 0.95


def test_differences_that_agree_claim_no_certainty() -> None:
    found = paired_difference(sums(1, 1, 1, 1), sums(0, 0, 0, 0), bounds=(0.0, 1.0))
    assert found is not None and (found.low or 0) < 0 and found.high == 1.0
    same = paired_difference(sums(1, 1, 1, 1), sums(1, 1, 1, 1), bounds=(0.0, 1.0))
    assert same is not None and same.low == -(same.high or 0) and (same.high or 0) > 0.5
    # Bounds that the values do not keep are none.
    odd = paired_difference(sums(5, 6, 7), sums(0, 0, 0), bounds=(0.0, 1.0))
    assert odd is not None and (odd.high or 0) > 7
    two = paired_difference(sums(1, 3), sums(0, 0))
    assert two is not None
    assert (two.value, two.low, two.high, two.n_needed, two.n) == (2.0, None, None, None, 2)


@pytest.mark.parametrize(
    ("metric", "kinds", "found"),
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
def test_ranges_of_metrics(metric: str, kinds: list[str], found: Any) -> None:
    rows = [
        Row("i", 1, "", kind, "ok", 1.0, 1.0, 0, "", None, None, None, None, 0.0) for kind in kinds
    ]
    assert value_range(rows, metric) == found


# ---------------------------------------------------------------- verdict words


def few_questions_world(n: int, spread: float = 0.01) -> list[AnsweredItems]:
    rng = np.random.default_rng(n)
    levels = {"ref": (1.0, 0.2), "expert": (0.5, 0.9), "dae": (0.95, 0.8), "low": (0.95, 0.3)}
    return [
        AnsweredItems(name, sums(*rng.normal(g, spread, n)), sums(*rng.normal(d, spread, n)))
        for name, (g, d) in levels.items()
    ]


def test_the_trade_off_takes_nothing_from_a_handful_for_sure() -> None:
    for n in (1, 2, 3, 4, 6):
        stats = trade_off_stats(few_questions_world(n), Plane("ref", "expert"), resamples=200)
        point = next(p for p in stats.points if p.checkpoint == "dae")
        assert point.retention is not None and (point.retention.low is None) == (n < 3)
        assert stats.draws.gain_known == (n >= 3)
        chosen = pick(stats, 0.9)
        assert (chosen is None) == (n < 3)
        if chosen is not None:
            assert chosen.checkpoint == "dae" and chosen.sure == (n >= 5)
            assert set(chosen.rivals) == ({"ref", "low"} if n < 5 else set())
        assert any("too few questions" in note for note in stats.notes) == (n < 5)
    # What is 1 by definition stays so; what merely came out alike does not.
    same = [AnsweredItems(name, sums(1, 1, 1), sums(0.1, 0.3, 0.2)) for name in ("ref", "dae")]
    ref, dae = trade_off_stats(same, Plane("ref"), resamples=200).points
    assert ref.retention is not None and (ref.retention.low, ref.retention.high) == (1.0, 1.0)
    assert dae.retention is not None and dae.retention.low is None
