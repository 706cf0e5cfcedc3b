"""The statistics of claims: intervals, p-values and Holm's correction, on simulated data."""

from __future__ import annotations

import itertools
import math

import numpy as np
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from kdharness.harness import stats
from kdharness.harness.experiments.claims import FAILS, HOLDS, UNSURE, ClaimResult, ClaimSpec
from kdharness.harness.stats.two_way import (
    LEAST_P,
    Effect,
    drawn_effect,
    paired_effect,
    rank_correlation,
    two_way_interval,
    two_way_p,
)

Sums = dict[str, tuple[float, float]]


def simulated_pairs(
    rng: np.random.Generator,
    effect: float,
    *,
    seeds: int,
    n_items: int,
    seed_sd: float,
    item_sd: float = 1.0,
    residual_sd: float = 1.0,
) -> list[tuple[Sums, Sums]]:
    """Simulate two checkpoints per seed that differ by `effect` plus seed, item and cell noise."""
    seed_effects, item_effects = rng.normal(0, seed_sd, seeds), rng.normal(0, item_sd, n_items)
    weights = rng.integers(5, 50, n_items)
    pairs = []
    for seed_effect in seed_effects:
        base = rng.normal(3, 2, n_items)
        gap = effect + seed_effect + item_effects + rng.normal(0, residual_sd, n_items)
        pairs.append(
            (
                {
                    f"q{i}": (float((b + g) * w), float(w))
                    for i, (b, g, w) in enumerate(zip(base, gap, weights, strict=True))
                },
                {
                    f"q{i}": (float(b * w), float(w))
                    for i, (b, w) in enumerate(zip(base, weights, strict=True))
                },
            )
        )
    return pairs


@pytest.mark.slow
@pytest.mark.parametrize(("seeds", "seed_sd"), [(3, 0.0), (3, 0.5), (5, 0.2), (2, 1.0), (1, 0.0)])
def test_intervals_cover_the_true_effect(seeds: int, seed_sd: float) -> None:
    rng = np.random.default_rng(seeds)
    trials, hits = 600, 0
    for _ in range(trials):
        estimate = paired_effect(
            simulated_pairs(rng, 0.4, seeds=seeds, n_items=40, seed_sd=seed_sd)
        )
        assert estimate is not None
        hits += estimate.low <= 0.4 <= estimate.high
    # Residual noise is counted twice, so intervals are conservative.
    assert hits / trials >= 0.93


def test_verdicts_under_the_null_and_for_a_large_effect() -> None:
    rng = np.random.default_rng(5)
    claim = ClaimSpec(text="a beats b", metric="x:y", of="a", than="b")
    verdicts = [
        ClaimResult(
            claim, {}, paired_effect(simulated_pairs(rng, 0.0, seeds=3, n_items=40, seed_sd=0.3))
        ).verdict
        for _ in range(400)
    ]
    assert verdicts.count(HOLDS) <= 14 and verdicts.count(FAILS) <= 14
    strong = [
        ClaimResult(
            claim, {}, paired_effect(simulated_pairs(rng, 2.0, seeds=3, n_items=40, seed_sd=0.1))
        ).verdict
        for _ in range(50)
    ]
    assert strong.count(HOLDS) >= 48


@given(
    st.lists(
        st.tuples(st.floats(-5, 5), st.floats(-5, 5), st.integers(1, 9)), min_size=3, max_size=12
    )
)
def test_effect_is_the_difference_of_weighted_means(cells: list[tuple[float, float, int]]) -> None:
    first = {str(i): (a * w, float(w)) for i, (a, _, w) in enumerate(cells)}
    second = {str(i): (b * w, float(w)) for i, (_, b, w) in enumerate(cells)}
    forward, backward = paired_effect([(first, second)]), paired_effect([(second, first)])
    assert forward is not None and backward is not None
    total = sum(w for _, _, w in cells)
    expected = sum(a * w for a, _, w in cells) / total - sum(b * w for _, b, w in cells) / total
    assert forward.value == pytest.approx(expected, abs=1e-9)
    assert (backward.value, backward.low, backward.high) == pytest.approx(
        (-forward.value, -forward.high, -forward.low), abs=1e-9
    )


def test_interval_matches_hand_computed_values() -> None:
    # Seeds only: t with 2 degrees of freedom, s / sqrt(3).
    low, high = two_way_interval([1.0, 2.0, 3.0], 0.0, 50)
    half_width = 4.30265 / math.sqrt(3)
    assert (low, high) == pytest.approx((2 - half_width, 2 + half_width), rel=1e-4)
    # Items only: t with 9 degrees of freedom.
    low, high = two_way_interval([2.0], 0.25, 10)
    assert high - 2 == pytest.approx(2.26216 * 0.5, rel=1e-4) and 2 - low == pytest.approx(high - 2)
    # Both: half-widths add in quadrature.
    low, high = two_way_interval([1.0, 2.0, 3.0], 0.25, 10)
    assert high - 2 == pytest.approx(math.hypot(4.30265 / math.sqrt(3), 2.26216 * 0.5), rel=1e-4)
    assert two_way_interval([1.0], 0.1, 2) == (None, None)


def test_effect_from_draws_matches_the_effect_from_rows() -> None:
    rng = np.random.default_rng(9)
    pairs = simulated_pairs(rng, 0.4, seeds=3, n_items=60, seed_sd=0.2)
    from_rows = paired_effect(pairs)
    assert from_rows is not None
    counts = rng.multinomial(60, [1 / 60] * 60, size=4000)
    draws = []
    for first, second in pairs:
        a, b = (np.array([side[f"q{i}"] for i in range(60)]) for side in (first, second))
        top_a, top_b = counts @ a, counts @ b
        draws.append(top_a[:, 0] / top_a[:, 1] - top_b[:, 0] / top_b[:, 1])
    from_draws = drawn_effect(from_rows.per_seed, draws, 60)
    assert from_draws is not None and from_draws.value == from_rows.value
    assert from_draws.high - from_draws.low == pytest.approx(
        from_rows.high - from_rows.low, rel=0.1
    )
    assert drawn_effect([math.nan], draws[:1], 60) is None
    assert drawn_effect([1.0], [np.full(100, np.nan)], 60) is None


# ---------------------------------------------------------------- p-values


def make_effect(per_seed: list[float], variance: float, questions: int) -> Effect:
    low, high = two_way_interval(per_seed, variance, questions)
    mean = math.fsum(per_seed) / len(per_seed)
    return Effect(mean, low, high, questions, tuple(per_seed), variance)


@given(
    st.lists(st.floats(-2, 2), min_size=1, max_size=4),
    st.floats(1e-4, 1),
    st.integers(3, 80),
    st.floats(-3, 3),
)
@example([0.5, 0.5, 0.5], 0.0001, 3, 0.5)
def test_p_is_below_five_percent_where_the_interval_excludes_the_threshold(
    per_seed: list[float], variance: float, questions: int, threshold: float
) -> None:
    effect = make_effect(per_seed, variance, questions)
    p = two_way_p(effect, threshold)
    assert p is not None and effect.low is not None and effect.high is not None
    assert LEAST_P <= p <= 1
    width = effect.high - effect.low
    for end in (effect.low, effect.high):
        if abs(threshold - end) < 1e-6 * (1 + width):
            return
    assert (p < 0.05) == (not effect.low <= threshold <= effect.high)
    # Farther away is less probable.
    beyond = threshold + math.copysign(0.1, threshold - effect.value)
    assert (two_way_p(effect, beyond) or 0) <= p + 1e-12


def test_p_with_one_source_of_variance_is_students() -> None:
    # scipy.stats: 2 * t.sf(0.5 / 0.2, 9) and 2 * t.sf(2 / (1 / sqrt(3)), 2).
    assert two_way_p(make_effect([0.5], 0.04, 10)) == pytest.approx(0.033862, rel=1e-3)
    assert two_way_p(make_effect([1.0, 2.0, 3.0], 0.0, 10)) == pytest.approx(0.074180, rel=1e-3)
    assert two_way_p(make_effect([0.5, 0.5], 0.0, 10)) == pytest.approx(LEAST_P)
    assert two_way_p(make_effect([0.5], 0.04, 2)) is None
    assert two_way_p(make_effect([0.5], 0.04, 10), 0.5) == pytest.approx(1)


@given(st.lists(st.floats(1e-9, 1), min_size=1, max_size=6))
def test_holm_is_the_closed_test_of_bonferroni(values: list[float]) -> None:
    """A hypothesis falls if every set of hypotheses with it falls by Bonferroni."""
    for index, adjusted in enumerate(stats.holm(values)):
        sets = (
            subset
            for size in range(1, len(values) + 1)
            for subset in itertools.combinations(range(len(values)), size)
            if index in subset
        )
        closed = max(min(1.0, len(s) * min(values[i] for i in s)) for s in sets)
        assert adjusted == pytest.approx(closed)


def test_the_adjusted_verdict_needs_both() -> None:
    claim = ClaimSpec(text="a beats b", metric="x:y", of="a", than="b")
    better, worse = make_effect([0.5], 0.04, 10), make_effect([-0.5], 0.04, 10)

    def verdicts(effect: Effect, p: float | None) -> tuple[str, str]:
        result = ClaimResult(claim, {}, effect, p_holm=p)
        return result.verdict, result.adjusted

    assert verdicts(better, 0.03) == (HOLDS, HOLDS)
    assert verdicts(better, 0.06) == (HOLDS, UNSURE)
    assert verdicts(worse, 0.03) == (FAILS, FAILS)
    assert verdicts(better, None) == (HOLDS, UNSURE)


# ---------------------------------------------------------------- predictions


def row_sums(values: list[float]) -> Sums:
    return {str(i): (value, 1.0) for i, value in enumerate(values)}


def test_rank_correlation_by_hand() -> None:
    low, middle, high = ([level + x for x in (0.0, 0.1, 0.2)] for level in (1.0, 2.0, 3.0))
    predictors = [row_sums(values) for values in (low, middle, high)]
    rising = [row_sums(values) for values in (low, middle, high)]
    value, draws, questions = rank_correlation(predictors, rising, resamples=50)
    assert (value, questions) == (1.0, 3)
    # The levels are farther apart than the questions, so that every resample agrees.
    assert draws.tolist() == [1.0] * 50
    swapped = [rising[1], rising[0], rising[2]]
    assert rank_correlation(predictors, swapped, resamples=2)[0] == pytest.approx(0.5)
    # Ranks of ties are their means: 0.5, 0.5, 2 against 0, 1, 2.
    tied = [rising[0], rising[0], rising[2]]
    assert rank_correlation(predictors, tied, resamples=2)[0] == pytest.approx(math.sqrt(0.75))
    assert math.isnan(rank_correlation(predictors, [rising[0]] * 3, resamples=2)[0])
    fewer = [{"0": (1.0, 1.0)}, *predictors[1:]]
    assert math.isnan(rank_correlation(fewer, rising, resamples=2)[0])
