"""The length-controlled win rate of AlpacaEval 2 (Dubois et al. 2024, arXiv:2404.04475).

A logistic model of the preference, without intercept, with three features: the length difference,
the instruction's difficulty, and a constant; the score is the win rate it predicts with a length
term of 0. The objective is that of scikit-learn's liblinear,

    min over b of  |b|_1 + C * sum_i w_i [log(1 + exp(z_i)) - p_i z_i],   z = X b,

solved here by proximal Newton steps: with at most three coefficients it converges to machine
precision in a few milliseconds, while liblinear stops early and differs between versions.

Two variants. `official` needs two files of the official dataset: the difficulties, and the
verdicts on a concise and a verbose version of the baseline, which regularise the length term.
`difficulty-free` needs only lengths and preferences, and is reported under its own name.
"""

from __future__ import annotations

import csv
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from kdharness.harness.errors import AssetError
from kdharness.harness.stats.inference import Interval, draws_interval, resample_counts

Floats = NDArray[np.float64]

ASSET = "alpaca-eval-lc"
DIFFICULTY_FILE = "instruction_difficulty.csv"
GAMED_FILE = "df_gamed.csv"
GRID = tuple(float(c) for c in np.logspace(-4, 4, 10))
FOLDS = 5
GAMED_WEIGHT = 0.1
# With two coefficients and hundreds of rows there is nothing to regularise; a fixed C avoids the
# jumps of choosing it by cross-validation.
FREE_C = 100.0
LC_RESAMPLES = 500


@dataclass(frozen=True)
class Gamed:
    """The regularising rows: standardised length difference, difficulty, preference in 0-1."""

    delta: Floats
    difficulty: Floats
    preference: Floats


@dataclass(frozen=True)
class LengthControlled:
    """A fit: the rate in percent, coefficients (length, difficulty, constant), C, variant.

    `spread` is upstream's `lc_standard_error`: the standard error of the predictions' mean, not
    of the estimate; the interval here is a bootstrap of the refit.
    """

    rate: Interval
    weights: tuple[float, float, float]
    c: float
    variant: str
    spread: float


def sigmoid(z: Floats) -> Floats:
    """Return the logistic function, by tanh: it cannot overflow, and is faster than logaddexp."""
    return np.asarray(0.5 + 0.5 * np.tanh(0.5 * z), dtype=np.float64)


def length_feature(len_1: Floats, len_2: Floats) -> Floats:
    """Return tanh of the standardised length difference in characters, baseline minus model."""
    delta = np.asarray(len_1, dtype=np.float64) - np.asarray(len_2, dtype=np.float64)
    spread = float(np.std(delta, ddof=1)) if len(delta) > 1 else 0.0
    return np.tanh(delta / spread) if spread > 0 else np.zeros_like(delta)


def rate_of(weights: Sequence[float], difficulty: Floats) -> float:
    """Return the length-controlled win rate in percent for given weights."""
    return float(100 * sigmoid(weights[1] * difficulty + weights[2]).mean())


def fit(
    features: Floats, preference: Floats, weight: Floats, c: float, start: Floats | None = None
) -> Floats:
    """Return the coefficients that minimise the objective for one C."""
    b = np.zeros(features.shape[1]) if start is None else start.copy()
    current = objective(features, preference, weight, c, b)
    for _ in range(100):
        share = sigmoid(features @ b)
        gradient = c * (features.T @ (weight * (share - preference)))
        curvature = c * ((features.T * (weight * share * (1 - share))) @ features)
        curvature[np.diag_indices_from(curvature)] += 1e-10 * (1 + np.trace(curvature))
        step = _lasso_step(b, gradient, curvature) - b
        scale, moved = 1.0, False
        while scale > 1e-8:
            value = objective(features, preference, weight, c, b + scale * step)
            if value <= current:
                moved = value < current - 1e-13 * (1 + abs(current))
                b, current = b + scale * step, value
                break
            scale /= 2
        if not moved or np.abs(step).max() < 1e-11 * (1 + np.abs(b).max()):
            break
    return b


def objective(x: Floats, p: Floats, w: Floats, c: float, b: Floats) -> float:
    """Return what the fit minimises: the L1 norm of b plus c times the weighted logistic loss."""
    z = x @ b
    softplus = np.maximum(z, 0.0) + np.log1p(np.exp(-np.abs(z)))
    return float(np.abs(b).sum() + c * (w @ (softplus - p * z)))


def _lasso_step(b: Floats, gradient: Floats, curvature: Floats) -> Floats:
    """Return the minimum of the quadratic model plus |.|_1, by coordinate descent."""
    new = b.copy()
    for _ in range(200):
        largest = 0.0
        for j in range(len(b)):
            slope = gradient[j] + curvature[j] @ (new - b)
            target = new[j] - slope / curvature[j, j]
            threshold = 1.0 / curvature[j, j]
            value = np.sign(target) * max(abs(target) - threshold, 0.0)
            largest = max(largest, abs(value - new[j]))
            new[j] = value
        if largest < 1e-12 * (1 + np.abs(new).max()):
            break
    return new


def choose_c(
    features: Floats, preference: Floats, weight: Floats, grid: Sequence[float] = GRID
) -> float:
    """Return the C with the best weighted log-likelihood over five folds of rows."""
    n = len(preference)
    folds = np.arange(n)[::-1] % FOLDS
    totals = np.zeros(len(grid))
    for fold in range(FOLDS):
        inside, outside = folds != fold, folds == fold
        b: Floats | None = None
        for index, c in enumerate(grid):
            b = fit(features[inside], preference[inside], weight[inside], c, b)
            q = np.clip(sigmoid(features[outside] @ b), 1e-15, 1 - 1e-15)
            p = preference[outside]
            likelihood = weight[outside] * (p * np.log(q) + (1 - p) * np.log1p(-q))
            totals[index] += likelihood.mean() / FOLDS
    return grid[int(np.argmax(totals))]


def official(
    preference: Floats,
    len_1: Floats,
    len_2: Floats,
    difficulty: Floats,
    gamed: Gamed,
    c: float | None = None,
) -> LengthControlled:
    """Fit upstream's `length_controlled_v1`. `preference` is in 0-1, NaN if missing.

    As upstream, rows without a preference take part in the standardisation and the prediction, but
    not in the fit.
    """
    x = np.column_stack([length_feature(len_1, len_2), difficulty, np.ones(len(preference))])
    kept = ~np.isnan(preference)
    extra = np.column_stack([np.tanh(gamed.delta), gamed.difficulty, np.zeros(len(gamed.delta))])
    features = np.vstack([extra, x[kept]])
    target = np.concatenate([gamed.preference, preference[kept]])
    weight = np.concatenate([np.full(len(extra), GAMED_WEIGHT), np.ones(int(kept.sum()))])
    chosen = choose_c(features, target, weight) if c is None else c
    b = fit(features, target, weight, chosen)
    predictions = 100 * sigmoid(b[1] * difficulty + b[2])
    draws = refits(x[kept], preference[kept], b, chosen, extra, gamed.preference)
    rates = _resampled_rates(draws, difficulty[kept])
    return LengthControlled(
        rate=draws_interval(float(predictions.mean()), rates, int(kept.sum())),
        weights=(float(b[0]), float(b[1]), float(b[2])),
        c=chosen,
        variant="official",
        spread=float(np.std(predictions, ddof=1) / np.sqrt(len(predictions))),
    )


def difficulty_free(
    preference: Floats, len_1: Floats, len_2: Floats, c: float = FREE_C
) -> LengthControlled:
    """Fit length and constant only: for any benchmark, without the official dataset's files."""
    kept = ~np.isnan(preference)
    x = np.column_stack([length_feature(len_1, len_2), np.ones(len(preference))])[kept]
    target = preference[kept]
    b = fit(x, target, np.ones(len(target)), c)
    draws = refits(x, target, b, c)
    value = float(100 * sigmoid(b[1:])[0])
    return LengthControlled(
        rate=draws_interval(value, 100 * sigmoid(draws[:, 1]), len(target)),
        weights=(float(b[0]), 0.0, float(b[1])),
        c=c,
        variant="difficulty-free",
        spread=0.0,
    )


def refits(
    x: Floats,
    p: Floats,
    b: Floats,
    c: float,
    extra: Floats | None = None,
    extra_p: Floats | None = None,
) -> Floats:
    """Return the coefficients of each bootstrap resample, by one Newton step from the full fit.

    A step from the optimum is accurate to second order, and turns thousands of refits into two
    matrix products. Coefficients that the penalty keeps at 0 stay there; the regularising rows
    are fixed, not sampled.
    """
    active = np.flatnonzero(b)
    draws = np.tile(b, (LC_RESAMPLES, 1))
    if len(active) == 0 or len(p) < 2:
        return draws
    size = len(active)
    part = x[:, active]
    share = sigmoid(x @ b)
    slopes = part * (share - p)[:, None]
    outer = part[:, :, None] * part[:, None, :] * (share * (1 - share))[:, None, None]
    # Single precision is far finer than the resolution of 500 resamples.
    terms = np.column_stack([slopes, outer.reshape(len(p), -1)]).astype(np.float32)
    sums = (resample_counts(len(p), LC_RESAMPLES) @ terms).astype(np.float64)
    gradient = c * sums[:, :size] + np.sign(b[active])
    curvature = c * sums[:, size:].reshape(-1, size, size)
    if extra is not None and extra_p is not None:
        other = extra[:, active]
        q = sigmoid(extra @ b)
        gradient = gradient + c * GAMED_WEIGHT * (other.T @ (q - extra_p))
        curvature = curvature + c * GAMED_WEIGHT * ((other.T * (q * (1 - q))) @ other)
    curvature = curvature + 1e-9 * np.eye(len(active))
    draws[:, active] -= np.linalg.solve(curvature, gradient[:, :, None])[:, :, 0]
    return draws


def _resampled_rates(draws: Floats, difficulty: Floats) -> Floats:
    """Return the rate of each resample, predicted on the questions it drew."""
    counts = resample_counts(len(difficulty), LC_RESAMPLES).astype(np.float64)
    z = draws[:, 1:2] * difficulty[None, :] + draws[:, 2:3]
    return np.asarray(100 * (counts * sigmoid(z)).sum(axis=1) / len(difficulty), dtype=np.float64)


@lru_cache(maxsize=8)
def read_difficulty(path: Path) -> Floats:
    """Read the difficulty of each instruction, by its index in the dataset."""
    return _columns(path, ["instruction_difficulty"])[0]


@lru_cache(maxsize=8)
def read_gamed(path: Path) -> Gamed:
    """Read the regularising rows of the official dataset."""
    delta, difficulty, preference = _columns(
        path, ["std_delta_len", "instruction_difficulty", "preference"]
    )
    # The file has preferences in 0-1; one in 1-2 would be a different version.
    if preference.min() < 0 or preference.max() > 1:
        raise AssetError("preferences must be from 0 to 1", where=str(path))
    return Gamed(delta, difficulty, preference)


def _columns(path: Path, names: Sequence[str]) -> list[Floats]:
    with path.open(encoding="utf-8", newline="") as stream:
        rows = list(csv.DictReader(stream))
    try:
        return [np.array([float(row[name]) for row in rows]) for name in names]
    except (KeyError, ValueError) as error:
        raise AssetError(
            f"not the expected table: {error}",
            where=str(path),
            hint=f"columns needed: {', '.join(names)}",
        ) from error
