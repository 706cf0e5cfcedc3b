"""What the numbers mean: means, intervals, paired tests, power. Pure functions over arrays.

The unit of chance is the *question*: both turns of an MT-Bench question, or all tokens of a
held-out row, are drawn together. Intervals are bootstrap intervals with Hesterberg's expanded
percentiles (The American Statistician 69(4), 2015, section 5.3), which keep their coverage with
the ten questions of a category. A handful of questions has too few different resamples for that:
below `FEW` they are Student's t intervals, and below `LEAST` there is none. Everything is seeded:
the same judgments give the same digits.
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
"""With fewer questions nothing can be said of the spread, so there is no interval."""
FEW = 8
"""With fewer questions the interval is Student's."""
_NORMAL = NormalDist()


@dataclass(frozen=True)
class Interval:
    """An estimate, its interval at `LEVEL`, and the number of questions behind it.

    `low` and `high` are None where there are fewer than `LEAST` questions.
    """

    value: float
    low: float | None
    high: float | None
    n: int


@dataclass(frozen=True)
class Difference:
    """A paired difference (first minus second) with its interval and two-sided p-value.

    `n` questions were answered by both; `n_needed` would tell a difference of this size with
    80 % power at the 5 % level, None where the difference is 0. As for `Interval`, the ends are
    None, and so is `n_needed`, below `LEAST` questions.
    """

    value: float
    low: float | None
    high: float | None
    p: float
    n: int
    n_needed: int | None


@lru_cache(maxsize=64)
def resample_counts(n: int, resamples: int = RESAMPLES, seed: int = 0) -> NDArray[np.float32]:
    """How often each of n questions is drawn in each resample: shape (resamples, n)."""
    rng = np.random.default_rng([seed, n, resamples])
    drawn = rng.integers(0, n, size=(resamples, n))
    drawn += np.arange(resamples)[:, None] * n
    counts = np.bincount(drawn.ravel(), minlength=resamples * n)
    return counts.reshape(resamples, n).astype(np.float32)


def student_quantile(p: float, df: int) -> float:
    """Quantile of Student's t: Newton's method on the exact distribution function.

    scipy has it, but importing scipy.stats costs more than a whole cached leaderboard.
    """
    if df > 10_000:
        return _NORMAL.inv_cdf(p)
    scale = math.exp(math.lgamma((df + 1) / 2) - math.lgamma(df / 2)) / math.sqrt(df * math.pi)
    x = _NORMAL.inv_cdf(p)
    for _ in range(100):
        density = scale * (1 + x * x / df) ** (-(df + 1) / 2)
        step = (_student_cdf(x, df) - p) / density
        step = max(-1.0 - abs(x), min(1.0 + abs(x), step))
        x -= step
        if abs(step) < 1e-12 * (1 + abs(x)):
            break
    return x


def _student_cdf(x: float, df: int) -> float:
    """Student's t distribution function for whole degrees of freedom (Abramowitz 26.7.3-4)."""
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
    """The lower percentile to read off a bootstrap of n questions.

    A percentile interval is too narrow by sqrt((n-1)/n) and by normal in place of t quantiles.
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
    """sum(numerators) / sum(denominators) with an interval over questions.

    Args:
        numerators: one sum a question.
        denominators: what it is divided by: rows with a verdict, or tokens.
        bounds: the lowest and highest value possible, infinite where there is no such end. Few
            questions' intervals end there; where all questions agree, both are needed.

    Returns:
        None when no question has a denominator. With questions that all agree and no bounds,
        low = high = value: nothing is known about the spread.
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
        return Interval(value, *_agreeing(value, n, bounds), n)
    if n < FEW and (hits := _successes(ratios, bottom, bounds)) is not None:
        lowest, highest = bounds or (0.0, 1.0)
        low, high = (lowest + end * (highest - lowest) for end in clopper_pearson(hits, n))
        return Interval(value, low, high, n)
    if n < FEW:
        # Linearised: a question moves the ratio by what it has beyond its share.
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
    """The mean of each column with its interval, one question a row: one pass for all columns."""
    n = len(columns)
    if n < FEW:
        parts = [
            ratio_interval(columns[:, k], np.ones(n), bounds=bounds)
            for k in range(columns.shape[1])
        ]
        return [part for part in parts if part is not None]
    draws = (resample_counts(n, resamples, seed) @ columns.astype(np.float32)) / n
    found = []
    for place in range(columns.shape[1]):
        column = columns[:, place]
        value = float(column.mean())
        if _alike(column):
            low, high = _agreeing(value, n, bounds)
        else:
            low, high = _quantiles(draws[:, place], n)
        found.append(Interval(value, min(low, value), max(high, value), n))
    return found


def _alike(values: Floats) -> bool:
    """Whether all values are the same, up to rounding."""
    return bool(np.ptp(values) <= 1e-12 * max(1.0, float(np.abs(values).max())))


def _student(
    value: float, units: Floats, bounds: tuple[float, float] | None = None
) -> tuple[float, float]:
    """Student's t interval around `value`, from one deviation a question, within the bounds."""
    n = len(units)
    reach = student_quantile((1 + LEVEL) / 2, n - 1) * float(units.std(ddof=1)) / math.sqrt(n)
    lowest, highest = bounds or (-math.inf, math.inf)
    return min(value, max(lowest, value - reach)), max(value, min(highest, value + reach))


def _successes(ratios: Floats, weights: Floats, bounds: tuple[float, float] | None) -> int | None:
    """How many of some questions of equal weight reached the top, where all are right or wrong."""
    if bounds is None or np.ptp(weights) > 0 or not np.isin(ratios, bounds).all():
        return None
    return int((ratios == bounds[1]).sum())


def clopper_pearson(hits: int, n: int, level: float = LEVEL) -> tuple[float, float]:
    """The exact interval of a binomial share (Clopper and Pearson 1934): never too narrow.

    Student's t takes the spread from the same few answers, and for one right of seven ends just
    short of a half.
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
    """Both ends at the expanded tail, linearly between order statistics (numpy's default)."""
    tail = expanded_tail(n)
    last = len(draws) - 1
    places = (tail * last, (1 - tail) * last)
    wanted = sorted({step for place in places for step in (math.floor(place), math.ceil(place))})
    # A partial sort of a few places is far cheaper than numpy's quantile on draws this few.
    ordered = np.partition(draws, wanted)
    ends = []
    for place in places:
        low, high = float(ordered[math.floor(place)]), float(ordered[math.ceil(place)])
        ends.append(low + (high - low) * (place - math.floor(place)))
    return ends[0], ends[1]


def _agreeing(value: float, n: int, bounds: tuple[float, float] | None) -> tuple[float, float]:
    """An interval where every question gave the same: a bootstrap would claim certainty.

    Those that might still differ might do so by the whole range.
    """
    if bounds is None or not all(map(math.isfinite, bounds)):
        return value, value
    share = unseen_share(n)
    return value - (value - bounds[0]) * share, value + (bounds[1] - value) * share


def unseen_share(n: int) -> float:
    """The largest share of questions that may differ from n that agree (Clopper-Pearson)."""
    return 1.0 - float(((1 - LEVEL) / 2) ** (1 / n))


def draws_interval(value: float, draws: Floats, n: int) -> Interval:
    """An interval from bootstrap draws made elsewhere, such as refits of a model."""
    if n < LEAST:
        return Interval(value, None, None, n)
    finite = draws[np.isfinite(draws)]
    if len(finite) < 2:
        return Interval(value, value, value, n)
    if n < FEW:
        # The spread of the draws of n questions is too small by sqrt((n-1)/n).
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
    """How far two checkpoints are apart on the questions that both answered.

    Args:
        first, second: question -> (sum of values, sum of weights).
        bounds: the lowest and highest value that either may have, where there are such.

    The p-value is a sign-flip test over questions: exact in spirit, free of a normal
    distribution, and never 0 (the observed flip counts too). None with fewer than two shared
    questions.
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
    # Each question's share of the difference, so that flipping one keeps its weight.
    shares = a[:, 0] / a[:, 1].sum() - b[:, 0] / b[:, 1].sum()
    p = _sign_flip(shares, flips, seed)
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
        return _agreeing(value, n, widest)
    if n < FEW:
        return _student(value, _deviations(a) - _deviations(b), widest)
    counts = resample_counts(n, resamples, seed).astype(np.float64)
    sums_a, sums_b = counts @ a, counts @ b
    return _quantiles(sums_a[:, 0] / sums_a[:, 1] - sums_b[:, 0] / sums_b[:, 1], n)


def _deviations(cells: Floats) -> Floats:
    """How far each question moves the ratio of two columns' sums."""
    ratio = cells[:, 0].sum() / cells[:, 1].sum()
    moved: Floats = (cells[:, 0] - ratio * cells[:, 1]) / cells[:, 1].mean()
    return moved


def _sign_flip(shares: Floats, flips: int, seed: int) -> float:
    """Two-sided p-value of a sum under random signs; all signs when there are few."""
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
    """Questions it takes to tell a mean difference from 0, two-sided at 1 - `LEVEL`.

    Args:
        difference: the mean paired difference to detect.
        spread: standard deviation of the paired differences of single questions.
    """
    if difference == 0 or not math.isfinite(spread):
        return None
    reach = _NORMAL.inv_cdf(1 - (1 - LEVEL) / 2) + _NORMAL.inv_cdf(power)
    return max(2, math.ceil((reach * spread / difference) ** 2))


def holm(values: Sequence[float]) -> list[float]:
    """Holm-adjusted p-values, in the given order."""
    order = sorted(range(len(values)), key=values.__getitem__)
    adjusted = [0.0] * len(values)
    highest = 0.0
    for rank, index in enumerate(order):
        highest = max(highest, min(1.0, values[index] * (len(values) - rank)))
        adjusted[index] = highest
    return adjusted
