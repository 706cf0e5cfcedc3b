"""Check coverage, p-values and power by simulation."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.stats import t

from kdharness.harness.stats import agreement, inference
from kdharness.harness.stats.inference import paired_difference, ratio_interval

TRIALS = 1000


def ratings(rng: np.random.Generator, n: int) -> tuple[np.ndarray, np.ndarray, float]:
    """Draw two correlated turns per item, as in MT-Bench: skewed integers from 1 to 10."""
    level = rng.beta(3, 1.5, size=n) * 9 + 1
    turns = np.clip(np.rint(level[:, None] + rng.normal(0, 1.5, (n, 2))), 1, 10)
    return turns.sum(axis=1), np.full(n, 2.0), math.nan


def true_mean_rating() -> float:
    rng = np.random.default_rng(1)
    top, bottom, _ = ratings(rng, 2_000_000)
    return float(top.sum() / bottom.sum())


def coverage(draw, truth: float, n: int) -> float:  # type: ignore[no-untyped-def]
    rng = np.random.default_rng(7)
    hits = 0
    for _ in range(TRIALS):
        top, bottom = draw(rng, n)
        interval = ratio_interval(top, bottom, bounds=None)
        assert interval is not None
        hits += interval.low <= truth <= interval.high
    return hits / TRIALS


@pytest.mark.slow
@pytest.mark.parametrize("n", [10, 20, 80])
def test_coverage_on_ratings(n: int) -> None:
    truth = true_mean_rating()
    assert 0.93 <= coverage(lambda rng, k: ratings(rng, k)[:2], truth, n) <= 0.975


@pytest.mark.slow
def test_coverage_on_preferences() -> None:
    """Weighted AlpacaEval preferences: mostly near 0, few near 1."""

    def draw(rng: np.random.Generator, n: int) -> tuple[np.ndarray, np.ndarray]:
        return rng.beta(0.15, 0.6, size=n), np.ones(n)

    assert 0.93 <= coverage(draw, 0.2, 805) <= 0.97


def test_coverage_on_token_weighted_losses() -> None:
    """A ratio estimate: nats per token over rows of different length, longer rows being easier."""

    def draw(rng: np.random.Generator, n: int) -> tuple[np.ndarray, np.ndarray]:
        tokens = rng.integers(5, 120, size=n).astype(float)
        nats = rng.gamma(4, (2.5 - tokens / 80) / 4) * tokens
        return nats, tokens

    rng = np.random.default_rng(5)
    top, bottom = draw(rng, 3_000_000)
    assert 0.93 <= coverage(draw, float(top.sum() / bottom.sum()), 48) <= 0.97


def test_coverage_with_ten_items() -> None:
    """Proportions over few rows, where the percentile bootstrap covers only 88 %."""

    def draw(rng: np.random.Generator, n: int) -> tuple[np.ndarray, np.ndarray]:
        return rng.binomial(4, 0.6, size=n).astype(float), np.full(n, 4.0)

    assert 0.93 <= coverage(draw, 0.6, 10) <= 0.98


@pytest.mark.slow
def test_p_values_are_uniform_under_the_null() -> None:
    rng = np.random.default_rng(3)
    values = []
    for _ in range(TRIALS):
        a, b = rng.integers(1, 11, 40), rng.integers(1, 11, 40)
        first = {str(i): (float(v), 1.0) for i, v in enumerate(a)}
        second = {str(i): (float(v), 1.0) for i, v in enumerate(b)}
        difference = paired_difference(first, second, resamples=200, flips=999)
        assert difference is not None
        values.append(difference.p)
    for level in (0.01, 0.05, 0.2, 0.5):
        share = float(np.mean(np.array(values) <= level))
        assert abs(share - level) < 3 * math.sqrt(level * (1 - level) / TRIALS) + 0.005


@pytest.mark.slow
def test_paired_difference_coverage_and_narrower_than_unpaired() -> None:
    rng = np.random.default_rng(11)
    hits, widths = 0, []
    for _ in range(TRIALS):
        level = rng.normal(6, 2, 80)
        a = level + 0.3 + rng.normal(0, 0.5, 80)
        b = level + rng.normal(0, 0.5, 80)
        difference = paired_difference(
            {str(i): (v, 1.0) for i, v in enumerate(a)},
            {str(i): (v, 1.0) for i, v in enumerate(b)},
            flips=99,
        )
        assert difference is not None
        hits += difference.low <= 0.3 <= difference.high
        widths.append(difference.high - difference.low)
    assert 0.93 <= hits / TRIALS <= 0.97
    unpaired = ratio_interval(a, np.ones(80))
    assert unpaired is not None and np.mean(widths) < (unpaired.high - unpaired.low) / 2


def test_sample_size_reaches_the_stated_power() -> None:
    """With the recommended number of items, four of five studies detect the difference."""
    spread, difference = 1.5, 0.4
    n = inference.questions_needed(difference, spread)
    assert n is not None and 100 < n < 125
    rng = np.random.default_rng(2)
    detected = 0
    for _ in range(TRIALS):
        d = rng.normal(difference, spread, n)
        detected += abs(d.mean()) / (d.std(ddof=1) / math.sqrt(n)) > 1.98
    assert 0.77 <= detected / TRIALS <= 0.84
    assert inference.questions_needed(0.0, 1.0) is None


def test_few_items_use_the_exact_sign_flip_test() -> None:
    first = {str(i): (float(v), 1.0) for i, v in enumerate([3, 4, 5, 6])}
    second = {str(i): (0.0, 1.0) for i in range(4)}
    difference = paired_difference(first, second)
    assert difference is not None and difference.p == pytest.approx(2 / 16)


def test_only_shared_items_are_compared() -> None:
    first = {"a": (1.0, 1.0), "b": (5.0, 1.0), "c": (9.0, 1.0)}
    second = {"b": (4.0, 1.0), "c": (9.0, 1.0), "d": (0.0, 1.0)}
    difference = paired_difference(first, second)
    assert difference is not None and difference.n == 2 and difference.value == pytest.approx(0.5)
    assert paired_difference(first, {"a": (1.0, 1.0)}) is None


def test_identical_values_keep_a_nonzero_interval() -> None:
    interval = ratio_interval([1.0] * 8, [1.0] * 8, bounds=(0.0, 1.0))
    assert interval is not None
    assert interval.high == 1.0 and interval.low == pytest.approx(0.025 ** (1 / 8))
    assert ratio_interval([], []) is None
    assert ratio_interval([0.0], [0.0]) is None


def test_holm_correction() -> None:
    assert inference.holm([0.01, 0.04, 0.03, 0.005]) == pytest.approx([0.03, 0.06, 0.06, 0.02])
    assert inference.holm([0.9, 0.8]) == [1.0, 1.0]
    assert inference.holm([]) == []


@given(st.lists(st.floats(0, 1), min_size=1, max_size=20))
def test_holm_never_lowers_p_values_and_keeps_their_order(values: list[float]) -> None:
    adjusted = inference.holm(values)
    assert all(a >= v for a, v in zip(adjusted, values, strict=True))
    ranks = sorted(range(len(values)), key=values.__getitem__)
    assert [adjusted[i] for i in ranks] == sorted(adjusted)


@given(st.floats(0.001, 0.999), st.integers(1, 400))
def test_student_quantile_matches_scipy(p: float, df: int) -> None:
    assert inference.student_quantile(p, df) == pytest.approx(
        float(t.ppf(p, df)), rel=1e-6, abs=1e-9
    )


def test_spearman_and_kappa_match_scipy_and_sklearn() -> None:
    from scipy.stats import spearmanr
    from sklearn.metrics import cohen_kappa_score

    rng = np.random.default_rng(0)
    a, b = rng.integers(1, 11, 60), rng.integers(1, 11, 60)
    assert agreement.spearman(a, b) == pytest.approx(float(spearmanr(a, b).statistic))
    c, d = list(rng.integers(0, 3, 60)), list(rng.integers(0, 3, 60))
    assert agreement.cohen_kappa(c, d) == pytest.approx(float(cohen_kappa_score(c, d)))
    assert agreement.spearman([1, 1], [2, 3]) is None
    assert agreement.cohen_kappa(["a"], ["a"]) is None


@given(
    st.lists(st.tuples(st.floats(0, 1), st.integers(1, 5)), min_size=1, max_size=30),
)
def test_interval_contains_its_estimate_and_is_deterministic(rows: list[tuple[float, int]]) -> None:
    top = [value * weight for value, weight in rows]
    bottom = [float(weight) for _, weight in rows]
    interval = ratio_interval(top, bottom, bounds=(0.0, 1.0))
    assert interval is not None
    if len(rows) < 3:
        assert interval.low is None and interval.high is None
        return
    assert interval.low is not None and interval.high is not None
    assert 0.0 <= interval.low <= interval.value <= interval.high <= 1.0 + 1e-12
    assert interval == ratio_interval(top, bottom, bounds=(0.0, 1.0))
