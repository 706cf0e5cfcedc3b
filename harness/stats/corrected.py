"""Means of a judge's verdicts, corrected by people's labels of a random sample of them. Pure.

Prediction-powered inference with a tuned weight (PPI++: Angelopoulos, Duchi and Zrnic 2023,
arXiv:2311.01453): with the judge's value f of every answer and a person's value y of some,

    theta = w mean(f, all) + mean(y - w f, labelled).

For each w this estimates the mean of what people would say, whatever the judge is worth: with
w = 0 it is the labels' own mean. The weight is that of least variance, clipped to 0-1: a useless
judge, or one that is wrong the other way round, gets 0 and costs nothing.

The sampling unit is the question, as everywhere: both turns of a question are one unit. The
labelled questions are among all questions, so a labelled one counts in both means; its total
influence on theta is u = (y - ybar - w (f - fbar_labelled)) / n + w (f - fbar) / N, and

    var(theta) = n var(u, labelled) + (N - n) (w / N)^2 var(f, all),

which is a quadratic in w. The interval is Student's t with n - 2 degrees of freedom, since the
weight is estimated as well.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

from kdharness.harness.stats.agreement import mean_ranks
from kdharness.harness.stats.inference import (
    FEW,
    LEAST,
    LEVEL,
    Floats,
    Interval,
    draws_interval,
    ratio_interval,
    resample_counts,
    sign_flip,
    student_cdf,
    student_quantile,
)
from kdharness.harness.stats.stratified import (
    Strata,
    first_within,
    judge_weight,
    spread,
    strata_of,
    variances,
)

Bounds = tuple[float, float]
WORTHWHILE = 0.95
"""The judge is used only if it narrows the labels' own interval at least to this share.

Taking the narrower of two intervals costs coverage if they differ by chance alone.
"""
FLIPS = 10_000
NEAR = 0.1
"""A verdict this close to a win, a loss or a tie is as good as one."""


class Question(NamedTuple):
    """A question's answers: sums over those a judge rated, and over those people labelled too.

    Attributes:
        judged, n_judged: sum and number of the judge's values.
        labels, n_labels: sum and number of people's values.
        judged_labelled: sum of the judge's values of the labelled answers.
        stratum: in which stratum it was when questions to label were chosen.
    """

    judged: float
    n_judged: float
    labels: float = 0.0
    n_labels: float = 0.0
    judged_labelled: float = 0.0
    stratum: int = 0


@dataclass(frozen=True)
class Corrected:
    """A corrected mean.

    Attributes:
        interval: `n` is the number of labelled questions.
        weight: how much of the judge is used, 0 for nothing.
        p: two-sided p-value of a mean of 0, for differences.
        to_halve: how many more labelled questions would halve the interval; None if labelling
            all of them would not, or if there is no interval.
    """

    interval: Interval
    weight: float
    p: float
    to_halve: int | None


class _Moments(NamedTuple):
    """Deviations of labelled questions (a: people, b: judge, g: judge among all), and of all."""

    a: Floats
    b: Floats
    g: Floats
    spread: float
    total: int
    shift: float
    """Mean of the judge over all questions minus that over the labelled ones."""

    @property
    def influence(self) -> Floats:
        """How much of a labelled question's influence the judge takes away, per unit of weight."""
        c = self.b / len(self.b) - self.g / self.total
        moved: Floats = c - c.mean()
        return moved

    @property
    def rest(self) -> float:
        """The variance that unlabelled questions add, per squared weight."""
        return (self.total - len(self.a)) / self.total**2 * self.spread


def corrected_mean(
    questions: Sequence[Question], *, bounds: Bounds | None = None, coarse: bool = False
) -> Corrected | None:
    """Compute the mean of people's values over all judged questions.

    Never wider than the interval of the labels alone, which is the result if the judge does not
    help. Valid only if the labelled questions are a random sample of all, or of each stratum:
    from `FEW` labelled questions on, strata are weighted by their sizes (`stats.stratified`).

    Args:
        questions: every judged question, labelled or not.
        bounds: the lowest and highest possible value, if bounded.
        coarse: whether people's values are wins, ties and losses (1, 0.5, 0, and differences of
            these). If the judge's are as well, a good one is wrong about very few labels, or
            none, and their spread is often too small: it is then estimated with one more label
            at each bound, as Agresti and Caffo (2000) do for proportions.

    Returns:
        None without labels.
    """
    rows = np.array([q for q in questions if q.n_judged > 0], dtype=np.float64).reshape(-1, 6)
    labelled = rows[rows[:, 3] > 0]
    alone = ratio_interval(labelled[:, 2], labelled[:, 3], bounds=bounds)
    if alone is None:
        return None
    p_alone = sign_flip(labelled[:, 2] / labelled[:, 3].sum(), FLIPS, 0)
    plain = Corrected(alone, 0.0, p_alone, None)
    n = len(labelled)
    if alone.low is None or alone.high is None or n < LEAST:
        return plain
    strata = strata_of(rows[:, 5], rows[:, 3] > 0)
    if len(strata.sizes) > 1 and n >= FEW:
        return _stratified(rows, labelled, strata, bounds, coarse) or plain
    moments = _moments(rows, labelled)
    weight = _weight(moments)
    sparse = coarse and _is_hard(labelled[:, 4] / labelled[:, 3])
    error, df = _error(moments, weight, alone.value, bounds if sparse else None)
    reach = student_quantile((1 + LEVEL) / 2, df) * error
    lowest, highest = bounds or (-math.inf, math.inf)
    value = min(highest, max(lowest, alone.value + weight * moments.shift))
    low = min(value, max(lowest, value - reach))
    high = max(value, min(highest, value + reach))
    if weight == 0 or error == 0 or high - low > WORTHWHILE * (alone.high - alone.low):
        return Corrected(alone, 0.0, p_alone, _to_halve(moments, 0.0))
    p = min(1.0, max(0.0, 2 * student_cdf(-abs(value) / error, df)))  # rounding
    return Corrected(Interval(value, low, high, n), weight, p, _to_halve(moments, weight))


def question_weights(questions: Sequence[Question]) -> list[float]:
    """Return what each labelled question counts for, by the strata, in order."""
    rows = np.array([q for q in questions if q.n_judged > 0], dtype=np.float64).reshape(-1, 6)
    if not (rows[:, 3] > 0).any():
        return []
    return list(map(float, strata_of(rows[:, 5], rows[:, 3] > 0).weights))


def _stratified(
    rows: Floats, labelled: Floats, strata: Strata, bounds: Bounds | None, coarse: bool
) -> Corrected | None:
    """Compute the mean of a stratified sample; None if all labels agree.

    As for a simple random sample, the judge is used only if it narrows the labels' own interval.
    """
    labels, n_labels, at_labels = labelled.T[2:5]
    weights, n = strata.weights, len(labelled)
    count = float(weights @ n_labels)
    people, judge = float(weights @ labels) / count, float(weights @ at_labels) / count
    a, b = ((x - m * n_labels) * n / count for x, m in ((labels, people), (at_labels, judge)))
    if np.ptp(labels / n_labels) <= 1e-12:
        return None
    shift = float(rows[:, 0].sum() / rows[:, 1].sum()) - judge
    weight = judge_weight(a, b, strata)

    def estimate(used: float, coarse: bool) -> tuple[Corrected, float]:
        value = people + used * shift
        ends = [end - value for end in bounds] if coarse and bounds else []
        found = spread(a, b, used, strata, ends)
        lowest, highest = bounds or (-math.inf, math.inf)
        value = min(highest, max(lowest, value))
        low, high = max(lowest, value - found.reach), min(highest, value + found.reach)
        p = min(1.0, 2 * student_cdf(-abs(value) / found.error, found.df))
        more = found.to_halve(n, int(strata.sizes.sum()))
        return Corrected(Interval(value, low, high, n), used, p, more), high - low

    # Labels that agree within each stratum have no spread that could be measured.
    alone, width = estimate(0.0, coarse or not variances(a, strata).any())
    corrected, narrower = estimate(weight, coarse)
    residual = variances(a - weight * b, strata)
    useful = weight > 0 and bool(residual.any()) and narrower <= WORTHWHILE * width
    return corrected if useful else alone


def _is_hard(verdicts: Floats) -> bool:
    """Return whether most verdicts are wins, ties or losses, not shares between these."""
    return bool(np.mean(np.abs(verdicts - np.round(2 * verdicts) / 2) <= NEAR) > 0.5)


def _moments(rows: Floats, labelled: Floats) -> _Moments:
    judged, n_judged, labels, n_labels, at_labels = labelled.T[:5]
    mean = rows[:, 0].sum() / rows[:, 1].sum()
    people = labels.sum() / n_labels.sum()
    judge = at_labels.sum() / n_labels.sum()
    everywhere = (rows[:, 0] - mean * rows[:, 1]) / rows[:, 1].mean()
    return _Moments(
        (labels - people * n_labels) / n_labels.mean(),
        (at_labels - judge * n_labels) / n_labels.mean(),
        (judged - mean * n_judged) / rows[:, 1].mean(),
        float(everywhere.var(ddof=1)) if len(rows) > 1 else 0.0,
        len(rows),
        float(mean - judge),
    )


def _weight(m: _Moments) -> float:
    """Return the weight of least variance, clipped to 0-1."""
    n, c = len(m.a), m.influence
    curvature = n * float(c @ c) / (n - 1) + m.rest
    if curvature <= 1e-15:
        return 0.0
    return min(1.0, max(0.0, float(m.a @ c) / (n - 1) / curvature))


def _error(m: _Moments, weight: float, people: float, bounds: Bounds | None) -> tuple[float, int]:
    """Return the standard error at a weight, and its degrees of freedom."""
    n = len(m.a)
    deviations = m.a - weight * n * m.influence
    squares = float(deviations @ deviations)
    if bounds is not None:
        ends = np.array(bounds) - people - weight * m.shift
        squares, n = squares + float(ends @ ends), n + 2
    df = max(1, n - 2)
    if squares <= 1e-24:
        return 0.0, df
    return math.sqrt(squares / df / n + weight**2 * m.rest), df


def _to_halve(m: _Moments, weight: float) -> int | None:
    """Return how many more questions must be labelled until the interval is half as wide.

    The spreads are those of the labels so far. With every question labelled the interval is that
    of the labels alone, which is as narrow as it gets.
    """
    n = len(m.a)
    aa, ab, bb = (float(x @ y) / (n - 1) for x, y in ((m.a, m.a), (m.a, m.b), (m.b, m.b)))

    def width(count: int) -> float:
        used = weight * (1 - count / m.total)
        residual = max(0.0, aa - 2 * used * ab + used**2 * bb)
        variance = residual / count + weight * used * m.spread / m.total
        df = max(1, count - (2 if weight else 1))
        return student_quantile((1 + LEVEL) / 2, df) * math.sqrt(variance)

    return first_within(width, width(n) / 2, n, m.total)


# ---------------------------------------------------------------- agreement of judge and people


class Agreement(NamedTuple):
    """Agreement of two raters over questions; None where it is undefined.

    `kappa` is Cohen's kappa with quadratic weights, which for numbers is Lin's concordance
    correlation, 2 cov / (var + var + (difference of means)^2): it also counts a judge that is
    too generous as disagreeing. `spearman` is the rank correlation, which does not.
    """

    kappa: Interval | None
    spearman: Interval | None


def rater_agreement(
    pairs: Mapping[str, Sequence[tuple[float, float]]],
    seed: int = 0,
    *,
    weights: Mapping[str, float] | None = None,
) -> Agreement:
    """Compute the agreement of two raters, with bootstrap intervals over questions.

    Args:
        pairs: question -> the values of both raters, one pair per answer.
        weights: question -> what it counts for, 1 if missing.

    The bootstrap of the rank correlation keeps the ranks of the whole sample.
    """
    names = [name for name, values in pairs.items() for _ in values]
    values = np.array([pair for several in pairs.values() for pair in several], dtype=np.float64)
    if len(values) < 2:
        return Agreement(None, None)
    order = {name: index for index, name in enumerate(dict.fromkeys(names))}
    place = np.array([order[name] for name in names])
    counts = np.array([(weights or {}).get(name, 1.0) for name in names])
    ranks = np.stack([mean_ranks(values[:, side]) for side in (0, 1)], axis=1)
    return Agreement(
        _moment_interval(values, counts, place, seed, concordance=True),
        _moment_interval(ranks, counts, place, seed, concordance=False),
    )


def _moment_interval(
    values: Floats,
    counts: Floats,
    place: np.ndarray[tuple[int], np.dtype[np.int64]],
    seed: int,
    concordance: bool,
) -> Interval | None:
    means = np.average(values, axis=0, weights=counts)
    centred = values - means
    gap = float(means[0] - means[1])
    a, b = centred.T
    n = int(place.max()) + 1
    parts = np.stack([np.ones(len(a)), a, b, a * a, b * b, a * b], axis=1)
    table = np.zeros((n, parts.shape[1]))
    np.add.at(table, place, parts * counts[:, None])
    value = float(_correlation(table.sum(axis=0, keepdims=True), gap, concordance)[0])
    if not math.isfinite(value):
        return None
    draws = _correlation(resample_counts(n, seed=seed).astype(np.float64) @ table, gap, concordance)
    interval = draws_interval(value, draws, n)
    if interval.low is None or interval.high is None:
        return interval
    return Interval(value, max(-1.0, interval.low), min(1.0, interval.high), n)


def _correlation(sums: Floats, gap: float, concordance: bool) -> Floats:
    """Return the concordance or the correlation from sums of 1, a, b, aa, bb and ab, by row."""
    count, a, b, aa, bb, ab = sums.T
    a, b = a / count, b / count
    var_a, var_b, cov = aa / count - a * a, bb / count - b * b, ab / count - a * b
    var_a, var_b = np.maximum(var_a, 0.0), np.maximum(var_b, 0.0)
    below = (var_a + var_b + (gap + a - b) ** 2) / 2 if concordance else np.sqrt(var_a * var_b)
    with np.errstate(invalid="ignore", divide="ignore"):
        result: Floats = np.where(below > 1e-12, np.clip(cov / below, -1.0, 1.0), np.nan)
    return result
