"""Means corrected by labels of a stratified sample of questions. Pure.

Where a judge is likely to be wrong, a label tells more. Questions are therefore put into strata
by what the judge said of them, and each stratum is sampled at random at a rate of its own. With
the shares W of the strata, and n of N questions labelled in each,

    theta = sum over strata of W mean(y - w f, labelled) + w mean(f, all)

is unbiased for every rate and every weight w (stratified prediction-powered inference: Fisch et
al. 2024, arXiv:2406.04291), and its variance, if the questions are a sample themselves, is

    var(theta) = var(y) / N + sum over strata of W^2 (1/n - 1/N) var(y - w f).

Given how many questions were labelled in each stratum, those of a simple random sample are a
simple random sample of each stratum too. So labels from before the strata count like any other.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from kdharness.harness.stats.agreement import mean_ranks
from kdharness.harness.stats.inference import LEVEL, Floats, student_quantile

MOST_STRATA = 4
LEAST_QUESTIONS, LEAST_SHARE = 5, 0.1
"""A stratum with fewer questions, or a smaller share of them, is merged with its neighbour."""
LEAST_LABELS = 2
"""So is one with fewer labels: it shows no spread."""
PRIOR = 4.0
"""How many labels the spread of all strata counts for in that of each.

A stratum of five labels that happen to agree is not without spread.
"""
FLOOR = 0.5
"""The least share of a stratum's proportional number of labels: its spread is an estimate."""
PILOT = 16
"""With fewer labelled questions their spreads are too uncertain to choose by."""


@dataclass(frozen=True)
class Strata:
    """Labelled questions by stratum.

    Attributes:
        place: the index of each labelled question's stratum.
        sizes: questions of each stratum, labelled or not.
    """

    place: NDArray[np.int64]
    sizes: Floats

    @property
    def counts(self) -> Floats:
        """Labelled questions of each stratum."""
        return np.bincount(self.place, minlength=len(self.sizes)).astype(np.float64)

    @property
    def weights(self) -> Floats:
        """What each labelled question counts for: questions of its stratum per labelled one."""
        rates = (self.sizes / self.counts)[self.place]
        weights: Floats = rates / rates.mean()
        return weights

    @property
    def factors(self) -> Floats:
        """The factor of each stratum's variance in that of the mean."""
        total = self.sizes.sum()
        factors: Floats = (self.sizes / total) ** 2 * (1 / self.counts - 1 / self.sizes)
        return factors

    @property
    def df(self) -> int:
        """Degrees of freedom of the spreads within strata."""
        return max(1, len(self.place) - len(self.sizes))


def strata_by(values: Mapping[str, float], doubts: Mapping[str, float]) -> dict[str, int]:
    """Put questions into strata, neighbours being alike.

    Args:
        values: the judge's mean verdict of each question.
        doubts: how uncertain the judge is of each, if it says so. Then there are two halves by
            value, and two of each by doubt; otherwise four quarters by value.

    Returns:
        The stratum of each question, from 0; one stratum where more would be too small.
    """
    if any(question not in doubts for question in values):
        return _merged(_quantile_bins(values, MOST_STRATA))
    halves = _quantile_bins(values, 2)
    strata: dict[str, int] = {}
    for half in sorted(set(halves.values())):
        inside = {q: doubts[q] for q, place in halves.items() if place == half}
        # The doubtful questions of both halves are neighbours.
        for question, place in _quantile_bins(inside, 2).items():
            strata[question] = 2 * half + (place if half == 0 else 1 - place)
    return _merged(strata)


def _quantile_bins(values: Mapping[str, float], bins: int) -> dict[str, int]:
    """Return the quantile bin of each question, equal values in one, by their middle rank."""
    if not values:
        return {}
    ranks = (mean_ranks(list(values.values())) - 0.5) / len(values)
    places = np.minimum((ranks * bins).astype(np.int64), bins - 1)
    return dict(zip(values, map(int, places), strict=True))


def _merged(strata: Mapping[str, int]) -> dict[str, int]:
    """Merge strata that are too small with their smaller neighbours, and number them from 0."""
    least = max(LEAST_QUESTIONS, LEAST_SHARE * len(strata))
    index = _merge_small(Counter(strata.values()), least)
    return {question: index[kind] for question, kind in strata.items()}


def _merge_small(counts: Mapping[int, int], least: float) -> dict[int, int]:
    """Return the merged stratum of each, so that every one has at least `least`, or one is left."""
    groups = [[kind] for kind in sorted(counts)]
    while len(groups) > 1:
        sizes = [sum(counts[kind] for kind in group) for group in groups]
        small = sizes.index(min(sizes))
        if sizes[small] >= least:
            break
        beside = [k for k in (small - 1, small + 1) if 0 <= k < len(groups)]
        first, second = sorted((small, min(beside, key=sizes.__getitem__)))
        groups[first] += groups.pop(second)
    return {kind: k for k, group in enumerate(groups) for kind in group}


def strata_of(kinds: Floats, labelled: NDArray[np.bool_]) -> Strata:
    """Return the strata of questions, those with too few labels merged with a neighbour.

    Args:
        kinds: the stratum of each question; neighbours are alike.
        labelled: which questions are.
    """
    everywhere = kinds.astype(np.int64)
    counts = {int(kind): 0 for kind in everywhere}
    counts.update(Counter(map(int, everywhere[labelled])))
    index = _merge_small(counts, LEAST_LABELS)
    merged = np.array([index[int(kind)] for kind in everywhere], dtype=np.int64)
    sizes = np.bincount(merged, minlength=1 + max(index.values()))
    return Strata(merged[labelled], sizes.astype(np.float64))


def variances(values: Floats, strata: Strata, ends: Sequence[float] = ()) -> Floats:
    """Return the variance of values within each stratum, drawn towards that of all together.

    Args:
        ends: values of two more labels, one at each bound, as deviations from the mean: without
            them a few labels that agree would have no spread at all.
    """
    counts = strata.counts
    means = np.bincount(strata.place, values, len(counts)) / counts
    squares = np.bincount(strata.place, (values - means[strata.place]) ** 2, len(counts))
    more = float(np.square(ends).sum())
    pooled = (squares.sum() + more) / max(1, strata.df + len(ends))
    shrunk: Floats = (squares + PRIOR * pooled) / (counts - 1 + PRIOR)
    return shrunk


def judge_weight(people: Floats, judge: Floats, strata: Strata) -> float:
    """Return the weight of the judge with the least variance, clipped to 0-1."""
    counts, factors = strata.counts, strata.factors
    means = [np.bincount(strata.place, x, len(counts)) / counts for x in (people, judge)]
    a, b = (x - mean[strata.place] for x, mean in zip((people, judge), means, strict=True))
    per = (factors / np.maximum(counts - 1, 1))[strata.place]
    curvature = float((per * b) @ b)
    if curvature <= 1e-15:
        return 0.0
    return min(1.0, max(0.0, float((per * a) @ b) / curvature))


@dataclass(frozen=True)
class Spread:
    """What the variance of a stratified mean is made of.

    Attributes:
        between: what remains with every question labelled: the questions are a sample.
        within: what the unlabelled questions add.
        df: degrees of freedom.
    """

    between: float
    within: float
    df: int

    @property
    def error(self) -> float:
        """The standard error."""
        return math.sqrt(self.between + self.within)

    @property
    def reach(self) -> float:
        """Half of the interval's width."""
        return student_quantile((1 + LEVEL) / 2, self.df) * self.error

    def to_halve(self, labelled: int, total: int) -> int | None:
        """Return how many more labels would halve the interval, at the same rates by stratum."""
        if labelled >= total:
            return None
        per_label = self.within / (1 / labelled - 1 / total)

        def width(count: int) -> float:
            within = per_label * (1 / count - 1 / total)
            df = self.df + count - labelled
            return student_quantile((1 + LEVEL) / 2, df) * math.sqrt(self.between + within)

        return first_within(width, self.reach / 2, labelled, total)


def first_within(
    width: Callable[[int], float], goal: float, labelled: int, total: int
) -> int | None:
    """Return how many more labels make an interval as narrow as `goal`; None if all do not.

    Args:
        width: of a number of labels; falls with it.
    """
    if goal <= 0 or width(total) > goal:
        return None
    low, high = labelled, total
    while low < high:
        middle = (low + high) // 2
        low, high = (low, middle) if width(middle) <= goal else (middle + 1, high)
    return low - labelled


def spread(
    people: Floats, judge: Floats, weight: float, strata: Strata, ends: Sequence[float]
) -> Spread:
    """Return the variance of the corrected mean at a weight.

    Args:
        people, judge: deviations of each labelled question.
        ends: as for `variances`.
    """
    residual = people - weight * judge
    within = float(strata.factors @ variances(residual, strata, ends))
    share = strata.weights
    centred = people - float(share @ people) / share.sum()
    squares = float(share @ centred**2) + float(np.square(ends).sum())
    n = len(people) + len(ends)
    between = squares / max(1, n - 1) / strata.sizes.sum()
    used = 1 if weight else 0
    return Spread(between, within, max(1, strata.df - used))


def label_shares(
    sizes: Mapping[int, int], labelled: Mapping[int, Sequence[float]]
) -> dict[int, float]:
    """Return what share of the labels each stratum should have, in all.

    With enough labels, in proportion to the stratum's size and the spread of its labels (Neyman's
    allocation), at least half of that by size alone; otherwise by size.

    Args:
        sizes: questions of each stratum.
        labelled: labels of each stratum's questions, one each, of any scale.
    """
    total = sum(sizes.values())
    plain = {kind: size / total for kind, size in sizes.items()}
    kinds = [kind for kind in sizes for _ in labelled.get(kind, ())]
    values = np.array([value for kind in sizes for value in labelled.get(kind, ())])
    if len(values) < PILOT or any(not labelled.get(kind) for kind in sizes):
        return plain
    order = {kind: k for k, kind in enumerate(sizes)}
    place = np.array([order[kind] for kind in kinds], dtype=np.int64)
    strata = Strata(place, np.array(list(sizes.values()), dtype=np.float64))
    errors = np.sqrt(variances(values, strata))
    wanted = {kind: plain[kind] * float(errors[order[kind]]) for kind in sizes}
    sum_wanted = sum(wanted.values())
    if sum_wanted <= 0:
        return plain
    return {kind: FLOOR * plain[kind] + (1 - FLOOR) * wanted[kind] / sum_wanted for kind in sizes}
