"""The length-controlled fit compared with scikit-learn, and its properties."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from sklearn.linear_model import LogisticRegression

from kdharness.harness.errors import AssetError
from kdharness.judges.scoring import length_control as lc


def simulate(n: int = 400, seed: int = 0, bias: float = -1.0, length: float = -1.5) -> tuple:  # type: ignore[type-arg]
    """Return simulated preferences (p in 0-1), both lengths, and difficulty."""
    rng = np.random.default_rng(seed)
    len_1 = rng.integers(200, 2500, n).astype(float)
    len_2 = rng.integers(200, 2500, n).astype(float)
    gamma = rng.normal(0, 1, n)
    z = length * lc.length_feature(len_1, len_2) + 0.7 * gamma + bias
    p = np.clip(lc.sigmoid(z) + rng.normal(0, 0.15, n), 0, 1)
    return p, len_1, len_2, gamma


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("c", [0.01, 0.3, 10.0])
def test_fit_matches_sklearn(c: float) -> None:
    p, len_1, len_2, gamma = simulate()
    x = np.column_stack([lc.length_feature(len_1, len_2), gamma, np.ones(len(p))])
    weight = np.linspace(0.1, 1, len(p))
    ours = lc.fit(x, p, weight, c)
    theirs = LogisticRegression(
        C=c,
        penalty="l1",
        solver="liblinear",
        fit_intercept=False,
        tol=1e-10,
        max_iter=10_000,
        random_state=123,
    ).fit(
        np.vstack([x, x]),
        np.repeat([1, 0], len(p)),
        sample_weight=np.concatenate([p * weight, (1 - p) * weight]),
    )
    assert ours == pytest.approx(theirs.coef_[0], abs=1e-4)
    assert (
        lc.objective(x, p, weight, c, ours) <= lc.objective(x, p, weight, c, theirs.coef_[0]) + 1e-9
    )


def test_one_step_refits_approximate_full_refits() -> None:
    p, len_1, len_2, _ = simulate()
    x = np.column_stack([lc.length_feature(len_1, len_2), np.ones(len(p))])
    b = lc.fit(x, p, np.ones(len(p)), 100.0)
    quick = lc.refits(x, p, b, 100.0)
    counts = lc.resample_counts(len(p), lc.LC_RESAMPLES)
    full = np.array([lc.fit(x, p, row.astype(float), 100.0, b) for row in counts[:60]])
    assert np.abs(quick[:60] - full).max() < 0.05 * full.std(axis=0).max() + 0.02


def test_winning_by_length_alone_is_controlled_to_50_percent() -> None:
    """A model that wins only by length is at 50 % once length is controlled for."""
    rng = np.random.default_rng(1)
    len_1 = np.full(600, 1000.0)
    len_2 = rng.choice([500.0, 1000.0, 2500.0], 600, p=[0.1, 0.2, 0.7])
    p = (len_2 > len_1) * 0.9 + (len_2 == len_1) * 0.5 + (len_2 < len_1) * 0.1
    result = lc.difficulty_free(p, len_1, len_2)
    assert float(100 * p.mean()) > 70
    assert result.rate.value == pytest.approx(50, abs=6)


@pytest.mark.slow
def test_interval_coverage() -> None:
    hits = 0
    for seed in range(200):
        p, len_1, len_2, _ = simulate(300, seed)
        result = lc.difficulty_free(p, len_1, len_2)
        if seed == 0:
            large_sample = simulate(200_000, 10_000)
            truth = lc.difficulty_free(*large_sample[:3]).rate.value
        hits += result.rate.low <= truth <= result.rate.high
    assert 0.90 <= hits / 200 <= 0.99


def test_strong_penalty_shrinks_the_win_rate_to_50() -> None:
    p, len_1, len_2, gamma = simulate()
    gamed = lc.Gamed(np.zeros(4), np.zeros(4), np.full(4, 0.5))
    result = lc.official(p, len_1, len_2, gamma, gamed, c=1e-9)
    assert result.weights == (0.0, 0.0, 0.0) and result.rate.value == 50


def test_rows_without_a_verdict_are_skipped() -> None:
    p, len_1, len_2, gamma = simulate()
    p[::7] = np.nan
    gamed = lc.Gamed(np.array([2.0, -2.0]), np.zeros(2), np.array([0.2, 0.8]))
    result = lc.official(p, len_1, len_2, gamma, gamed)
    assert result.rate.low < result.rate.value < result.rate.high and result.c in lc.GRID
    assert result.rate.n == int((~np.isnan(p)).sum())


def test_files_with_wrong_columns_or_values_are_rejected(tmp_path: Path) -> None:
    path = tmp_path / "x.csv"
    path.write_text("a,b\n1,2\n")
    with pytest.raises(AssetError, match="expected"):
        lc.read_difficulty(path)
    other = tmp_path / "y.csv"
    other.write_text("std_delta_len,instruction_difficulty,preference\n1,0,1.7\n")
    with pytest.raises(AssetError, match="from 0 to 1"):
        lc.read_gamed(other)
