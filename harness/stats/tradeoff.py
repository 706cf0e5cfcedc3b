"""How sure the trade-off's figures are: pure functions over arrays.

Two sources of chance, kept apart. *Questions*: other questions would have given other figures;
they are drawn with replacement, the same draw for every checkpoint, so that what checkpoints have
in common cancels out (Efron and Tibshirani, *An Introduction to the Bootstrap*, 1993, ch. 6; the
ends are Hesterberg's, see `stats.inference`). *Seeds*: another training would have given other
weights; with k seeds of one recipe, Student's t interval of their mean. Neither contains the other.

The WiSE-FT curve is the line through reference, merges in the order of alpha, and expert, on
(retention, gain). A point's distance above it is

    gain − max { gain on the curve : retention ≥ the point's }

the domain that merging could not have given without losing more. For a point that keeps more
than the whole curve, the curve's most general point is what it is held against.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from statistics import fmean, stdev

import numpy as np

from kdharness.harness.stats.inference import (
    FEW,
    LEVEL,
    RESAMPLES,
    Floats,
    Interval,
    draws_interval,
    resample_counts,
    student_quantile,
)
from kdharness.harness.stats.pareto import hypervolume
from kdharness.harness.stats.rows import LEAST_FOR_VERDICT

Sums = Mapping[str, tuple[float, float]]
"""Question -> (sum of values, sum of weights)."""


@dataclass(frozen=True)
class AnsweredItems:
    """One checkpoint's rows on both axes, question by question."""

    checkpoint: str
    general: Sums
    domain: Sums


@dataclass(frozen=True)
class Plane:
    """What the axes are and who plays which part.

    `curve` names the merges between reference and expert in the order of alpha.
    `same_questions` says that both axes are figures of the same questions: they are then drawn
    together.
    """

    reference: str
    expert: str | None = None
    general_lower_is_better: bool = False
    domain_lower_is_better: bool = False
    curve: tuple[str, ...] = ()
    floor: tuple[float, float] = (0.0, 0.0)
    same_questions: bool = False


@dataclass(frozen=True)
class PointStats:
    """One checkpoint's place with intervals over questions; None where undefined."""

    checkpoint: str
    gain: Interval | None
    retention: Interval | None
    above_curve: Interval | None


@dataclass(frozen=True)
class Draws:
    """(retention, gain) of every checkpoint: as measured, and in every resample."""

    names: tuple[str, ...]
    retention: Floats
    gain: Floats
    retention_draws: Floats
    gain_draws: Floats
    n_general: int
    n_domain: int
    gain_known: bool = True


@dataclass(frozen=True)
class Stats:
    """All that a trade-off's questions can tell, and what they cannot (`notes`)."""

    points: tuple[PointStats, ...]
    hypervolume: Interval | None
    draws: Draws
    notes: tuple[str, ...] = ()


@dataclass(frozen=True)
class Pick:
    """The checkpoint to take under a constraint.

    `sure` says whether the whole interval of its retention meets the constraint; `rivals` meet it
    too, and their gain is not told apart from the picked one's. Below `LEAST_FOR_VERDICT`
    questions nothing is sure and all are rivals.
    """

    checkpoint: str
    min_retention: float
    sure: bool
    rivals: tuple[str, ...] = field(default=())


# ---------------------------------------------------------------- over questions


def trade_off_stats(
    answered: Sequence[AnsweredItems], plane: Plane, *, resamples: int = RESAMPLES, seed: int = 0
) -> Stats:
    """Intervals over questions for gain, retention, hypervolume and distance above the curve.

    Args:
        answered: every checkpoint, the plane's reference and expert among them.
        plane: the axes' directions and the parts.

    A question that a checkpoint has no rows for counts for the others alone.
    """
    draws = draw_plane(answered, plane, resamples=resamples, seed=seed)
    notes = (
        []
        if draws.gain_known
        else [
            "the expert's own gain is not told apart from 0: no share of it can be told either"
            if plane.expert
            else "no expert is known: gain is a share of the expert's"
        ]
    )
    both = min(draws.n_general, draws.n_domain)
    if both < LEAST_FOR_VERDICT:
        notes.append(f"n = {both}: too few questions to tell checkpoints apart")
    above = above_draws(draws, plane) if draws.gain_known and plane.curve else {}
    if draws.gain_known and not plane.curve:
        notes.append(
            "no WiSE-FT merges between reference and expert are scored: no curve to stand above"
        )
    points = []
    for place, name in enumerate(draws.names):
        points.append(
            PointStats(
                name,
                _interval(
                    draws.gain[place],
                    draws.gain_draws[:, place],
                    draws.n_domain,
                    name in (plane.reference, plane.expert),
                )
                if draws.gain_known
                else None,
                _interval(
                    draws.retention[place],
                    draws.retention_draws[:, place],
                    draws.n_general,
                    name == plane.reference,
                ),
                _interval(*above[name], both) if name in above else None,
            )
        )
    volume = _volume(draws, plane.floor) if draws.gain_known else None
    return Stats(tuple(points), volume, draws, tuple(notes))


def draw_plane(
    answered: Sequence[AnsweredItems], plane: Plane, *, resamples: int = RESAMPLES, seed: int = 0
) -> Draws:
    """Retention and gain as measured and in every resample of the questions."""
    names = tuple(one.checkpoint for one in answered)
    general, n_general = _means([one.general for one in answered], resamples, seed)
    # Another seed, so that two sets of equally many questions are drawn independently.
    other = seed if plane.same_questions else seed + 1
    domain, n_domain = _means([one.domain for one in answered], resamples, other)
    base = names.index(plane.reference)
    with np.errstate(divide="ignore", invalid="ignore"):
        kept = general / general[:, base : base + 1]
        if plane.general_lower_is_better:
            kept = 1 / kept
        learnt = domain - domain[:, base : base + 1]
        gained, known = np.full_like(learnt, np.nan), False
        if plane.expert in names:
            span = learnt[:, names.index(plane.expert)]
            gained = learnt / span[:, None]
            better = -span if plane.domain_lower_is_better else span
            known = _surely_positive(better, n_domain)
    return Draws(names, kept[0], gained[0], kept[1:], gained[1:], n_general, n_domain, known)


def _surely_positive(better: Floats, n: int) -> bool:
    """Whether the expert gained: where resamples turn its gain round, a share means nothing."""
    if n < FEW:
        low = draws_interval(float(better[0]), better[1:], n).low
        return low is not None and low > 0
    return bool(better[0] > 0 and np.mean(better[1:] <= 0) <= (1 - LEVEL) / 2)


def _means(columns: Sequence[Sums], resamples: int, seed: int) -> tuple[Floats, int]:
    """Each checkpoint's mean, first as measured, then in every resample; and the questions."""
    questions = sorted({q for sums in columns for q in sums})
    cells = np.array([[sums.get(q, (0.0, 0.0)) for sums in columns] for q in questions])
    n = len(questions)
    counts = resample_counts(n, resamples, seed).astype(np.float64)
    counts = np.concatenate([np.ones((1, n)), counts])
    with np.errstate(divide="ignore", invalid="ignore"):
        return (counts @ cells[:, :, 0]) / (counts @ cells[:, :, 1]), n


def _interval(value: float, draws: Floats, n: int, by_definition: bool = False) -> Interval | None:
    """The interval of a figure; None where the figure is undefined.

    Args:
        by_definition: the figure is 0 or 1 whatever the questions. Of any other, draws of a
            handful of questions that are all alike tell nothing of the spread.
    """
    if not math.isfinite(value):
        return None
    if n < FEW and not by_definition and len(np.unique(draws[np.isfinite(draws)])) < 2:
        return Interval(float(value), None, None, n)
    return draws_interval(float(value), draws, n)


def _volume(draws: Draws, floor: tuple[float, float]) -> Interval | None:
    """The hypervolume with its interval; a front of noisy points is a little too far out."""

    def area(retention: Floats, gain: Floats) -> float:
        pairs = [(float(r), float(g)) for r, g in zip(retention, gain, strict=True)]
        return hypervolume([p for p in pairs if all(map(math.isfinite, p))], floor)

    value = area(draws.retention, draws.gain)
    drawn = np.array(
        [area(r, g) for r, g in zip(draws.retention_draws, draws.gain_draws, strict=True)]
    )
    return _interval(value, drawn, min(draws.n_general, draws.n_domain))


# ---------------------------------------------------------------- above the WiSE-FT curve


def above_draws(draws: Draws, plane: Plane) -> dict[str, tuple[float, Floats]]:
    """Distance above the curve, as measured and drawn, of every point that is not on it."""
    assert plane.expert is not None
    line = [draws.names.index(n) for n in (plane.reference, *plane.curve, plane.expert)]
    found = {}
    for place, name in enumerate(draws.names):
        if place in line:
            continue
        value = above_curve(
            draws.retention[None, place],
            draws.gain[None, place],
            draws.retention[None, line],
            draws.gain[None, line],
        )
        drawn = above_curve(
            draws.retention_draws[:, place],
            draws.gain_draws[:, place],
            draws.retention_draws[:, line],
            draws.gain_draws[:, line],
        )
        found[name] = (float(value[0]), drawn)
    return found


def above_curve(
    retention: Floats, gain: Floats, curve_retention: Floats, curve_gain: Floats
) -> Floats:
    """How far points stand above a piecewise-linear curve (the module's formula).

    Args:
        retention, gain: one point a row.
        curve_retention, curve_gain: the curve's corners a row, in their order.
    """
    wanted = np.minimum(retention, curve_retention.max(axis=1))[:, None]
    best = np.where(curve_retention >= wanted, curve_gain, -np.inf).max(axis=1)
    left, right = curve_retention[:, :-1], curve_retention[:, 1:]
    crosses = (left - wanted) * (right - wanted) < 0
    with np.errstate(divide="ignore", invalid="ignore"):
        share = (wanted - left) / (right - left)
        there = curve_gain[:, :-1] + share * (curve_gain[:, 1:] - curve_gain[:, :-1])
    crossing = np.where(crosses, there, -np.inf).max(axis=1, initial=-np.inf)
    result: Floats = gain - np.maximum(best, crossing)
    return result


# ---------------------------------------------------------------- which one to take


def pick(stats: Stats, min_retention: float) -> Pick | None:
    """The most domain with at least so much of the general figure; None when nothing keeps it.

    Of equal gains the one with more retention is taken.
    """
    draws = stats.draws
    if not draws.gain_known:
        return None
    able = [
        place
        for place in range(len(draws.names))
        if math.isfinite(draws.gain[place]) and draws.retention[place] >= min_retention
    ]
    if not able:
        return None
    best = max(able, key=lambda p: (draws.gain[p], draws.retention[p]))
    rivals = []
    for place in able:
        lead = draws.gain_draws[:, best] - draws.gain_draws[:, place]
        gap = _interval(draws.gain[best] - draws.gain[place], lead, draws.n_domain)
        few = gap is None or gap.low is None or draws.n_domain < LEAST_FOR_VERDICT
        if place != best and (few or (gap is not None and (gap.low or 0.0) <= 0)):
            rivals.append(draws.names[place])
    kept = stats.points[best].retention
    told = kept is not None and draws.n_general >= LEAST_FOR_VERDICT
    sure = told and kept is not None and kept.low is not None and kept.low >= min_retention
    return Pick(draws.names[best], min_retention, sure, tuple(rivals))


# ---------------------------------------------------------------- over seeds


@dataclass(frozen=True)
class RecipeStats:
    """One recipe trained with several seeds: its mean, with each source of chance apart.

    `questions` is the interval were these very weights asked other questions; `seeds` the one
    were the recipe trained again and asked these very questions.
    """

    recipe: str
    checkpoints: tuple[str, ...]
    figure: str
    mean: float
    questions: Interval
    seeds: Interval


def seed_interval(values: Sequence[float]) -> Interval:
    """Student's t interval of a mean over seeds; a single one tells nothing of the spread."""
    k, mean = len(values), fmean(values)
    if k < 2:
        return Interval(mean, -math.inf, math.inf, k)
    reach = student_quantile((1 + LEVEL) / 2, k - 1) * stdev(values) / math.sqrt(k)
    return Interval(mean, mean - reach, mean + reach, k)


def recipe_stats(
    recipe: str, members: Sequence[tuple[str, Draws]], figure: str
) -> RecipeStats | None:
    """The mean of `gain` or `retention` over seeds.

    Args:
        members: (checkpoint, the plane it stands on): each seed may have a reference and an
            expert of its own.
    """
    values, drawn, n = [], [], 10**9
    for name, draws in members:
        if figure == "gain" and not draws.gain_known:
            return None
        place = draws.names.index(name)
        measured = draws.gain if figure == "gain" else draws.retention
        resampled = draws.gain_draws if figure == "gain" else draws.retention_draws
        values.append(float(measured[place]))
        drawn.append(resampled[:, place])
        n = min(n, draws.n_domain if figure == "gain" else draws.n_general)
    if len(values) < 2 or not all(map(math.isfinite, values)):
        return None
    over_questions = draws_interval(fmean(values), np.mean(drawn, axis=0), n)
    return RecipeStats(
        recipe,
        tuple(name for name, _ in members),
        figure,
        fmean(values),
        over_questions,
        seed_interval(values),
    )
