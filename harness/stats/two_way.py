"""Effects over seeds and questions: intervals and p-values for new seeds *and* new questions. Pure.

Each source of variance has its Student interval; their half-widths are added in quadrature (Howe,
JASA 69(347), 1974). The p-value of a hypothesis is that of the widest interval of this kind that
excludes it, so that p is below 0.05 exactly where the 95 % interval excludes it.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from kdharness.harness.stats.inference import (
    LEAST,
    LEVEL,
    RESAMPLES,
    Floats,
    resample_counts,
    student_quantile,
    unseen_share,
)
from kdharness.harness.stats.rows import Sums

LEAST_P = 1e-9
"""Smaller p-values are not told apart: Student's quantiles are not exact there."""


@dataclass(frozen=True)
class Effect:
    """A claim's effect with its interval, higher being better; `per_seed` in the order of seeds.

    `low` and `high` are None with fewer than three questions. `question_variance` is that of the
    mean over seeds, due to the choice of questions.
    """

    value: float
    low: float | None
    high: float | None
    questions: int
    per_seed: tuple[float, ...]
    question_variance: float = 0.0


def two_way_interval(
    per_seed: Sequence[float], question_variance: float, questions: int
) -> tuple[float, float] | tuple[None, None]:
    """Return the 95 % interval of a mean over seeds, for new seeds and new questions.

    Each source has its Student interval; their half-widths are added in quadrature (Howe, JASA
    69(347), 1974). The residual of a cell, beyond its seed and question effect, is in both, so
    that the interval is conservative.

    Args:
        per_seed: the effect under each seed. With a single seed the interval covers questions
            only.
        question_variance: the variance of the mean over seeds due to the choice of questions.
        questions: number of questions; with fewer than three there is no interval.
    """
    seeds = len(per_seed)
    mean = math.fsum(per_seed) / seeds
    if questions < LEAST:
        return None, None
    reach = _reach(per_seed, question_variance, questions, 1 - LEVEL)
    return mean - reach, mean + reach


def _reach(
    per_seed: Sequence[float], question_variance: float, questions: int, alpha: float
) -> float:
    """Return half the width of the interval that leaves out a share of `alpha`."""
    seeds = len(per_seed)
    squares = student_quantile(1 - alpha / 2, questions - 1) ** 2 * question_variance
    if seeds > 1:
        mean = math.fsum(per_seed) / seeds
        of_seeds = math.fsum((x - mean) ** 2 for x in per_seed) / (seeds - 1) / seeds
        squares += student_quantile(1 - alpha / 2, seeds - 1) ** 2 * of_seeds
    return math.sqrt(squares)


def two_way_p(effect: Effect, threshold: float = 0.0) -> float | None:
    """Return the two-sided p-value of a true effect at the threshold; None without an interval.

    It is the share that the narrowest interval reaching the threshold leaves out, at least
    `LEAST_P`.
    """
    if effect.low is None or effect.high is None:
        return None
    gap = abs(effect.value - threshold)
    outside, inside = LEAST_P, 1.0
    for _ in range(60):
        alpha = math.sqrt(outside * inside)
        if _reach(effect.per_seed, effect.question_variance, effect.questions, alpha) < gap:
            inside = alpha
        else:
            outside = alpha
    return inside


def paired_effect(pairs: Sequence[tuple[Sums, Sums]], width: float | None = None) -> Effect | None:
    """Compute how much higher the first of each pair scores than the second; one pair per seed.

    Only questions answered by all of them count; None with fewer than two.

    Args:
        width: the range of the metric, if bounded; the interval then has a positive width even if
            all questions agree.
    """
    sides = [sums for pair in pairs for sums in pair]
    shared = sorted(q for q in sides[0] if all(s.get(q, (0, 0))[1] > 0 for s in sides))
    n = len(shared)
    if n < 2:
        return None
    table = np.array([_shares(first, shared) - _shares(second, shared) for first, second in pairs])
    # Each question's share of the difference, times n: their mean is the difference.
    per_seed = tuple(float(x) for x in table.mean(axis=1))
    moved = table.mean(axis=0)
    variance = float(moved.var(ddof=1)) / n
    if width is not None and n >= LEAST and float(np.ptp(moved)) <= 1e-12 * max(1.0, width):
        variance = (unseen_share(n) * width / student_quantile((1 + LEVEL) / 2, n - 1)) ** 2
    low, high = two_way_interval(per_seed, variance, n)
    return Effect(math.fsum(per_seed) / len(per_seed), low, high, n, per_seed, variance)


def _shares(sums: Sums, questions: Sequence[str]) -> Floats:
    cells = np.array([sums[q] for q in questions], dtype=np.float64)
    # Linearised ratio: with unequal weights, each question moves the mean by the difference
    # between its value and its weight times the ratio.
    ratio = cells[:, 0].sum() / cells[:, 1].sum()
    mean_weight = cells[:, 1].mean()
    shares: Floats = ratio + (cells[:, 0] - ratio * cells[:, 1]) / mean_weight
    return shares


def drawn_effect(values: Sequence[float], draws: Sequence[Floats], questions: int) -> Effect | None:
    """Compute a value's mean over seeds from bootstrap draws (the same questions for each seed)."""
    if not values or not all(map(math.isfinite, values)):
        return None
    means: Floats = np.mean(np.stack(list(draws)), axis=0)
    finite = means[np.isfinite(means)]
    if len(finite) < len(means) // 2 or questions < 2:
        return None
    # A bootstrap of n questions underestimates the spread by sqrt((n − 1) / n).
    variance = float(finite.var(ddof=1)) * questions / (questions - 1)
    low, high = two_way_interval(values, variance, questions)
    mean = math.fsum(values) / len(values)
    return Effect(mean, low, high, questions, tuple(values), variance)


def rank_correlation(
    predictors: Sequence[Sums], outcomes: Sequence[Sums], *, resamples: int = RESAMPLES
) -> tuple[float, Floats, int]:
    """Compute Spearman's correlation of two scores over checkpoints, measured and per resample.

    The questions of each score are resampled with the same draw for every checkpoint, those of the
    two scores independently. Only questions that all checkpoints have count.

    Returns:
        The correlation, that of every resample, and the smaller number of questions. NaN where a
        score is the same in all checkpoints.
    """
    first, n_first = _resampled(predictors, resamples, 0)
    second, n_second = _resampled(outcomes, resamples, 1)
    drawn = _correlation(_ranks(first), _ranks(second))
    return float(drawn[0]), drawn[1:], min(n_first, n_second)


def _resampled(columns: Sequence[Sums], resamples: int, seed: int) -> tuple[Floats, int]:
    """Return each checkpoint's mean, as measured and per resample: (resamples + 1, checkpoints)."""
    shared = sorted(set.intersection(*(set(sums) for sums in columns)))
    n = len(shared)
    if n < 2:
        return np.full((resamples + 1, len(columns)), np.nan), n
    cells = np.array([[sums[question] for sums in columns] for question in shared])
    counts = np.concatenate([np.ones((1, n)), resample_counts(n, resamples, seed)])
    means: Floats = (counts @ cells[:, :, 0]) / (counts @ cells[:, :, 1])
    return means, n


def _ranks(values: Floats) -> Floats:
    """Return the mean ranks within each row."""
    below = (values[:, None, :] < values[:, :, None]).sum(axis=2)
    same = (values[:, None, :] == values[:, :, None]).sum(axis=2)
    ranks: Floats = below + (same - 1) / 2
    return ranks


def _correlation(first: Floats, second: Floats) -> Floats:
    """Return the correlation of two tables, row by row."""
    a, b = (x - x.mean(axis=1, keepdims=True) for x in (first, second))
    with np.errstate(divide="ignore", invalid="ignore"):
        result: Floats = (a * b).sum(axis=1) / np.sqrt((a * a).sum(axis=1) * (b * b).sum(axis=1))
    return result
