"""Means, intervals, paired tests and power. Pure functions over arrays.

The sampling unit is the *question*: both turns of an MT-Bench question, or all tokens of a
held-out row, are resampled together. Intervals are bootstrap intervals with Hesterberg's expanded
percentiles (The American Statistician 69(4), 2015, section 5.3), which keep their coverage with
the ten questions of a category. Fewer questions have too few distinct resamples for that: below
`FEW` they are Student's t intervals, and below `LEAST` there is none. Everything is seeded: the
same judgments give the same digits.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from statistics import NormalDist
from typing import Any

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]

RESAMPLES = 2000
LEVEL = 0.95
LEAST = 3
"""With fewer questions the spread cannot be estimated, so there is no interval."""
FEW = 8
"""With fewer questions the interval is a Student's t interval."""
_NORMAL = NormalDist()


@dataclass(frozen=True)
class Interval:
    """An estimate, its interval at `LEVEL`, and the number of questions behind it.

    `low` and `high` are None with fewer than `LEAST` questions.
    """

    value: float
    low: float | None
    high: float | None
    n: int


@dataclass(frozen=True)
class Difference:
    """A paired difference (first minus second) with its interval and two-sided p-value.

    `n` is the number of questions answered by both; `n_needed` is the number required to detect a
    difference of this size with 80 % power at the 5 % level, None if the difference is 0. As in
    `Interval`, `low` and `high` are None below `LEAST` questions, and so is `n_needed`.
    """

    value: float
    low: float | None
    high: float | None
    p: float
    n: int
    n_needed: int | None


@lru_cache(maxsize=64)
def resample_counts(n: int, resamples: int = RESAMPLES, seed: int = 0) -> NDArray[np.float32]:
    """Return how often each of n questions is drawn in each resample: shape (resamples, n)."""
    rng = np.random.default_rng([seed, n, resamples])
    drawn = rng.integers(0, n, size=(resamples, n))
    drawn += np.arange(resamples)[:, None] * n
    counts = np.bincount(drawn.ravel(), minlength=resamples * n)
    return counts.reshape(resamples, n).astype(np.float32)


def student_quantile(p: float, df: int) -> float:
    """Compute a quantile of Student's t with Newton's method on the exact distribution function.

    scipy provides it, but importing scipy.stats takes longer than a whole cached leaderboard.
    """
    if df > 10_000:
        return _NORMAL.inv_cdf(p)
    scale = math.exp(math.lgamma((df + 1) / 2) - math.lgamma(df / 2)) / math.sqrt(df * math.pi)
    x = _NORMAL.inv_cdf(p)
    for _ in range(100):
        density = scale * (1 + x * x / df) ** (-(df + 1) / 2)
        step = (student_cdf(x, df) - p) / density
        step = max(-1.0 - abs(x), min(1.0 + abs(x), step))
        x -= step
        if abs(step) < 1e-12 * (1 + abs(x)):
            break
    return x


def student_cdf(x: float, df: int) -> float:
    """Compute Student's t distribution function for integer df (Abramowitz and Stegun 26.7.3-4)."""
    theta = math.atan2(x, math.sqrt(df))
    cosine, sine = math.cos(theta), math.sin(theta)
    total = 0.0
    if df % 2:
        term = cosine
        for k in range(3, df + 1, 2):
            total += term
            term *= cosine * cosine * (k - 1) / k
        inner = 2 / math.pi * (theta + sine * total)
    else:
        term = 1.0
        for k in range(2, df + 1, 2):
            total += term
            term *= cosine * cosine * (k - 1) / k
        inner = sine * total
    return 0.5 + inner / 2


@lru_cache(maxsize=1024)
def expanded_tail(n: int, level: float = LEVEL) -> float:
    """Return the lower expanded percentile for a bootstrap of n questions.

    A plain percentile interval is too narrow by sqrt((n-1)/n) and by using normal instead of t
    quantiles.
    """
    if n < 2:
        return (1 - level) / 2
    t = student_quantile((1 - level) / 2, n - 1)
    return _NORMAL.cdf(math.sqrt(n / (n - 1)) * t)


def ratio_interval(
    numerators: Sequence[float] | Floats,
    denominators: Sequence[float] | Floats,
    *,
    bounds: tuple[float, float] | None = None,
    resamples: int = RESAMPLES,
    seed: int = 0,
) -> Interval | None:
    """Compute sum(numerators) / sum(denominators) with an interval over questions.

    Args:
        numerators: one sum per question.
        denominators: the divisors: rows with a verdict, or tokens.
        bounds: the lowest and highest possible value, infinite if unbounded. Intervals of few
            questions are clipped to them; if all questions agree, both must be finite.

    Returns:
        None if no question has a positive denominator. If all questions agree and there are no
        bounds, low = high = value: nothing is known about the spread.
    """
    top = np.asarray(numerators, dtype=np.float64)
    bottom = np.asarray(denominators, dtype=np.float64)
    used = bottom > 0
    top, bottom = top[used], bottom[used]
    n = len(top)
    if n == 0:
        return None
    value = float(top.sum() / bottom.sum())
    if n < LEAST:
        return Interval(value, None, None, n)
    ratios = top / bottom
    if _alike(ratios):
        return Interval(value, *agreeing(value, n, bounds), n)
    if n < FEW and (hits := _successes(ratios, bottom, bounds)) is not None:
        lowest, highest = bounds or (0.0, 1.0)
        low, high = (lowest + end * (highest - lowest) for end in clopper_pearson(hits, n))
        return Interval(value, low, high, n)
    if n < FEW:
        # Linearised: a question moves the ratio by its deviation from its share.
        return Interval(value, *_student(value, (top - value * bottom) / bottom.mean(), bounds), n)
    counts = resample_counts(n, resamples, seed)
    drawn = np.stack([top, bottom], axis=1).astype(np.float32)
    sums = counts @ drawn
    low, high = _quantiles(sums[:, 0] / sums[:, 1], n)
    return Interval(value, min(low, value), max(high, value), n)


def mean_intervals(
    columns: Floats,
    *,
    bounds: tuple[float, float] | None = None,
    resamples: int = RESAMPLES,
    seed: int = 0,
) -> list[Interval]:
    """Compute the mean of each column with its interval, in one pass; rows are questions."""
    n = len(columns)
    if n < FEW:
        parts = [
            ratio_interval(columns[:, k], np.ones(n), bounds=bounds)
            for k in range(columns.shape[1])
        ]
        return [part for part in parts if part is not None]
    draws = (resample_counts(n, resamples, seed) @ columns.astype(np.float32)) / n
    intervals = []
    for index in range(columns.shape[1]):
        column = columns[:, index]
        value = float(column.mean())
        if _alike(column):
            low, high = agreeing(value, n, bounds)
        else:
            low, high = _quantiles(draws[:, index], n)
        intervals.append(Interval(value, min(low, value), max(high, value), n))
    return intervals


def _alike(values: Floats) -> bool:
    """Return whether all values are equal, up to rounding."""
    return bool(np.ptp(values) <= 1e-12 * max(1.0, float(np.abs(values).max())))


def _student(
    value: float, units: Floats, bounds: tuple[float, float] | None = None
) -> tuple[float, float]:
    """Return Student's t interval around `value`, from one deviation per question, clipped."""
    n = len(units)
    reach = student_quantile((1 + LEVEL) / 2, n - 1) * float(units.std(ddof=1)) / math.sqrt(n)
    lowest, highest = bounds or (-math.inf, math.inf)
    return min(value, max(lowest, value - reach)), max(value, min(highest, value + reach))


def _successes(ratios: Floats, weights: Floats, bounds: tuple[float, float] | None) -> int | None:
    """Count the questions at the upper bound, if all have equal weight and are at a bound."""
    if bounds is None or np.ptp(weights) > 0 or not np.isin(ratios, bounds).all():
        return None
    return int((ratios == bounds[1]).sum())


def clopper_pearson(hits: int, n: int, level: float = LEVEL) -> tuple[float, float]:
    """Compute the exact interval of a binomial proportion (Clopper and Pearson 1934).

    It is never too narrow. Student's t estimates the spread from the same few answers, and for
    one success of seven ends just below one half.
    """
    tail = (1 - level) / 2

    def at_least(share: float, k: int) -> float:
        return sum(math.comb(n, j) * share**j * (1 - share) ** (n - j) for j in range(k, n + 1))

    def solve(rises: Callable[[float], float]) -> float:
        low, high = 0.0, 1.0
        for _ in range(60):
            middle = (low + high) / 2
            low, high = (middle, high) if rises(middle) < 0 else (low, middle)
        return (low + high) / 2

    lower = solve(lambda share: at_least(share, hits) - tail) if hits else 0.0
    upper = solve(lambda share: at_least(share, hits + 1) - (1 - tail)) if hits < n else 1.0
    return lower, upper


def _quantiles(draws: NDArray[Any], n: int) -> tuple[float, float]:
    """Return both expanded percentiles, with numpy's default linear interpolation."""
    tail = expanded_tail(n)
    last = len(draws) - 1
    ranks = (tail * last, (1 - tail) * last)
    needed = sorted({index for rank in ranks for index in (math.floor(rank), math.ceil(rank))})
    # For this few draws, a partial sort is far cheaper than numpy's quantile.
    ordered = np.partition(draws, needed)
    ends = []
    for rank in ranks:
        low, high = float(ordered[math.floor(rank)]), float(ordered[math.ceil(rank)])
        ends.append(low + (high - low) * (rank - math.floor(rank)))
    return ends[0], ends[1]


def agreeing(value: float, n: int, bounds: tuple[float, float] | None) -> tuple[float, float]:
    """Return an interval for questions that all agree, where a bootstrap would have zero width.

    Unseen questions may differ by the whole range.
    """
    if bounds is None or not all(map(math.isfinite, bounds)):
        return value, value
    share = unseen_share(n)
    return value - (value - bounds[0]) * share, value + (bounds[1] - value) * share


def unseen_share(n: int) -> float:
    """Return the upper bound on the share of questions that differ, given n that agree."""
    return 1.0 - float(((1 - LEVEL) / 2) ** (1 / n))


def draws_interval(value: float, draws: Floats, n: int) -> Interval:
    """Return an interval from given bootstrap draws, such as refits of a model."""
    if n < LEAST:
        return Interval(value, None, None, n)
    finite = draws[np.isfinite(draws)]
    if len(finite) < 2:
        return Interval(value, value, value, n)
    if n < FEW:
        # Bootstrap draws of n questions underestimate the spread by sqrt((n-1)/n).
        error = float(finite.std(ddof=1)) * math.sqrt(n / (n - 1))
        reach = student_quantile((1 + LEVEL) / 2, n - 1) * error
        return Interval(value, value - reach, value + reach, n)
    low, high = _quantiles(finite, n)
    return Interval(value, min(low, value), max(high, value), n)


def paired_difference(
    first: Mapping[str, tuple[float, float]],
    second: Mapping[str, tuple[float, float]],
    *,
    bounds: tuple[float, float] | None = None,
    resamples: int = RESAMPLES,
    flips: int = 10_000,
    seed: int = 0,
) -> Difference | None:
    """Compute the difference of two checkpoints on the questions that both answered.

    The p-value is that of a sign-flip test over questions: it assumes no normal distribution and
    is never 0, because the observed signs count as well.

    Args:
        first, second: question -> (sum of values, sum of weights).
        bounds: the lowest and highest possible value of either, if bounded.

    Returns:
        None with fewer than two shared questions.
    """
    shared = sorted(q for q in first if q in second and first[q][1] > 0 and second[q][1] > 0)
    n = len(shared)
    if n < 2:
        return None
    a = np.array([first[q] for q in shared], dtype=np.float64)
    b = np.array([second[q] for q in shared], dtype=np.float64)
    means = np.concatenate([a[:, 0] / a[:, 1], b[:, 0] / b[:, 1]])
    if bounds is not None and not bounds[0] <= means.min() <= means.max() <= bounds[1]:
        bounds = None
    value = float(a[:, 0].sum() / a[:, 1].sum() - b[:, 0].sum() / b[:, 1].sum())
    # Each question's share of the difference, so that flipping a sign keeps its weight.
    shares = a[:, 0] / a[:, 1].sum() - b[:, 0] / b[:, 1].sum()
    p = sign_flip(shares, flips, seed)
    if n < LEAST:
        return Difference(value, None, None, p, n, None)
    widest = None if bounds is None else (bounds[0] - bounds[1], bounds[1] - bounds[0])
    low, high = _difference_ends(value, a, b, widest, resamples, seed)
    spread = float(np.std(shares * n, ddof=1))
    return Difference(
        value, min(low, value), max(high, value), p, n, questions_needed(value, spread)
    )


def _difference_ends(
    value: float,
    a: Floats,
    b: Floats,
    widest: tuple[float, float] | None,
    resamples: int,
    seed: int,
) -> tuple[float, float]:
    n = len(a)
    if widest is not None and _alike(a[:, 0] / a[:, 1] - b[:, 0] / b[:, 1]):
        return agreeing(value, n, widest)
    if n < FEW:
        return _student(value, _deviations(a) - _deviations(b), widest)
    counts = resample_counts(n, resamples, seed).astype(np.float64)
    sums_a, sums_b = counts @ a, counts @ b
    return _quantiles(sums_a[:, 0] / sums_a[:, 1] - sums_b[:, 0] / sums_b[:, 1], n)


def _deviations(cells: Floats) -> Floats:
    """Return how far each question moves the ratio of the two column sums."""
    ratio = cells[:, 0].sum() / cells[:, 1].sum()
    moved: Floats = (cells[:, 0] - ratio * cells[:, 1]) / cells[:, 1].mean()
    return moved


def sign_flip(shares: Floats, flips: int, seed: int) -> float:
    """Return the two-sided p-value of a sum under random signs; exhaustive for few questions."""
    n = len(shares)
    observed = abs(float(shares.sum())) * (1 - 1e-9)
    if n <= 13:
        bits = (np.arange(2**n)[:, None] >> np.arange(n)) & 1
        sums = (bits * 2.0 - 1) @ shares
        return float(np.mean(np.abs(sums) >= observed))
    rng = np.random.default_rng([seed, n, flips])
    signs = rng.integers(0, 2, size=(flips, n), dtype=np.int8)
    sums = signs.astype(np.float32) @ (2 * shares).astype(np.float32) - shares.sum()
    return float((1 + np.sum(np.abs(sums) >= observed)) / (1 + flips))


def questions_needed(difference: float, spread: float, power: float = 0.8) -> int | None:
    """Return the number of questions needed to detect a mean difference, two-sided at 1 - `LEVEL`.

    Args:
        difference: the mean paired difference to detect.
        spread: standard deviation of the paired differences over questions.
    """
    if difference == 0 or not math.isfinite(spread):
        return None
    reach = _NORMAL.inv_cdf(1 - (1 - LEVEL) / 2) + _NORMAL.inv_cdf(power)
    return max(2, math.ceil((reach * spread / difference) ** 2))


def holm(values: Sequence[float]) -> list[float]:
    """Return Holm-adjusted p-values, in the given order."""
    order = sorted(range(len(values)), key=values.__getitem__)
    adjusted = [0.0] * len(values)
    highest = 0.0
    for rank, index in enumerate(order):
        highest = max(highest, min(1.0, values[index] * (len(values) - rank)))
        adjusted[index] = highest
    return adjusted
