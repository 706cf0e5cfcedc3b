"""Uncertainty of the trade-off: pure functions over arrays.

Two sources of variance, kept separate. *Questions*: they are resampled with replacement, with the
same draw for every checkpoint, so that common variance cancels out (Efron and Tibshirani, *An
Introduction to the Bootstrap*, 1993, ch. 6; the percentiles are Hesterberg's, see
`stats.inference`). *Seeds*: with k seeds of one recipe, Student's t interval of their mean.
Neither includes the other.

The WiSE-FT curve is the line through the reference, the merges ordered by alpha, and the expert,
on (retention, gain). A point's distance above it is

    gain − max { gain on the curve : retention ≥ the point's }

the domain gain that merging could not achieve without losing more. A point with higher retention
than the whole curve is compared with the curve's point of highest retention.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
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
    student_quantile,
)
from kdharness.harness.stats.pareto import hypervolume
from kdharness.harness.stats.plane import AnsweredItems, Draws, Plane, draw_plane
from kdharness.harness.stats.rows import LEAST_FOR_VERDICT


@dataclass(frozen=True)
class PointStats:
    """One checkpoint's values with intervals over questions; None where undefined.

    `partial`: it is compared on a part of the questions.
    """

    checkpoint: str
    gain: Interval | None
    retention: Interval | None
    above_curve: Interval | None
    partial: bool = False


@dataclass(frozen=True)
class Stats:
    """Statistics of a trade-off over questions; `notes` say what is missing and why."""

    points: tuple[PointStats, ...]
    hypervolume: Interval | None
    draws: Draws
    notes: tuple[str, ...] = ()


@dataclass(frozen=True)
class Pick:
    """The checkpoint to choose under a constraint on retention.

    `sure` tells whether the whole interval of its retention meets the constraint; `rivals` meet it
    too, and their gain does not differ significantly. Below `LEAST_FOR_VERDICT` questions nothing
    is sure and all are rivals.
    """

    checkpoint: str
    min_retention: float
    sure: bool
    rivals: tuple[str, ...] = field(default=())


# ---------------------------------------------------------------- over questions


def trade_off_stats(
    answered: Sequence[AnsweredItems], plane: Plane, *, resamples: int = RESAMPLES, seed: int = 0
) -> Stats:
    """Compute intervals over questions of gain, retention, hypervolume and above_curve.

    A checkpoint is compared with the reference and the expert on the questions that all of them
    answered: those of an unfinished evaluation may be easier than the rest.

    Args:
        answered: every checkpoint, including the plane's reference and expert.
        plane: the directions of the axes and the roles.
    """
    draws = draw_plane(answered, plane, resamples=resamples, seed=seed)
    notes = (
        []
        if draws.gain_known
        else [
            "the expert's own gain is not told apart from 0: no share of it can be told either"
            if plane.expert
            else "unknown expert: gain is relative to the expert"
        ]
    )
    n = min(draws.n_general, draws.n_domain)
    if n < LEAST_FOR_VERDICT:
        notes.append(f"n = {n}: too few questions to distinguish checkpoints")
    notes += _partial(draws)
    above = above_draws(draws, plane) if draws.gain_known and plane.curve else {}
    if draws.gain_known and not plane.curve:
        notes.append(
            "no scored WiSE-FT merges between reference and expert: no curve to compare with"
        )
    points = []
    for index, name in enumerate(draws.names):
        points.append(
            PointStats(
                name,
                interval_of(
                    draws.gain[index],
                    draws.gain_draws[:, index],
                    draws.domain_counts[index],
                    name in (plane.reference, plane.expert),
                )
                if draws.gain_known
                else None,
                interval_of(
                    draws.retention[index],
                    draws.retention_draws[:, index],
                    draws.general_counts[index],
                    name == plane.reference,
                ),
                interval_of(*above[name], draws.questions(name)) if name in above else None,
                draws.general_counts[index] < draws.n_general
                or draws.domain_counts[index] < draws.n_domain,
            )
        )
    volume = _volume(draws, plane.floor) if draws.gain_known else None
    return Stats(tuple(points), volume, draws, tuple(notes))


def _partial(draws: Draws) -> list[str]:
    """Name the checkpoints that are compared on a part of the questions."""
    parts: dict[str, list[str]] = {}
    for axis, counts, total in (
        ("general", draws.general_counts, draws.n_general),
        ("domain", draws.domain_counts, draws.n_domain),
    ):
        for name, count in zip(draws.names, counts, strict=True):
            if count < total:
                parts.setdefault(f"{count} of {total} {axis} questions", []).append(name)
    return [
        f"{', '.join(names)}: compared on the {part} that the reference and the expert answered too"
        for part, names in parts.items()
    ]


def interval_of(
    value: float, draws: Floats, n: int, by_definition: bool = False
) -> Interval | None:
    """Return the interval of a value; None if the value is undefined.

    Args:
        by_definition: the value is 0 or 1 for any questions. For other values, identical draws
            of few questions do not show the spread.
    """
    if not math.isfinite(value):
        return None
    if n < FEW and not by_definition and len(np.unique(draws[np.isfinite(draws)])) < 2:
        return Interval(float(value), None, None, n)
    return draws_interval(float(value), draws, n)


def _volume(draws: Draws, floor: tuple[float, float]) -> Interval | None:
    """Compute the hypervolume with its interval; noise biases it slightly upwards."""

    def area(retention: Floats, gain: Floats) -> float:
        pairs = [(float(r), float(g)) for r, g in zip(retention, gain, strict=True)]
        return hypervolume([p for p in pairs if all(map(math.isfinite, p))], floor)

    value = area(draws.retention, draws.gain)
    drawn = np.array(
        [area(r, g) for r, g in zip(draws.retention_draws, draws.gain_draws, strict=True)]
    )
    return interval_of(value, drawn, min(draws.n_general, draws.n_domain))


# ---------------------------------------------------------------- above the WiSE-FT curve


def above_draws(draws: Draws, plane: Plane) -> dict[str, tuple[float, Floats]]:
    """Compute the distance above the curve, measured and per draw, of points not on the curve."""
    assert plane.expert is not None
    line = (plane.reference, *plane.curve, plane.expert)
    return {n: above_line(draws, n, line) for n in draws.names if n not in line}


def above_line(
    draws: Draws, name: str, line: Sequence[str], *, kept: bool = False
) -> tuple[float, Floats]:
    """Compute a checkpoint's distance above a line, measured and per draw, in gain.

    Args:
        line: the checkpoints at its corners, in order.
        kept: in retention instead: its own minus the highest on the line at its gain or more.
    """
    at = draws.names.index(name)
    corners = [draws.names.index(corner) for corner in line]
    sides = [
        (draws.retention[None], draws.gain[None]),
        (draws.retention_draws, draws.gain_draws),
    ]
    if kept:
        sides = [(gain, retention) for retention, gain in sides]
    value, drawn = (above_curve(x[:, at], y[:, at], x[:, corners], y[:, corners]) for x, y in sides)
    return float(value[0]), drawn


def above_curve(
    retention: Floats, gain: Floats, curve_retention: Floats, curve_gain: Floats
) -> Floats:
    """Compute how far points lie above a piecewise-linear curve (see the module's formula).

    Args:
        retention, gain: one point per row, shape (rows,).
        curve_retention, curve_gain: the ordered corners of a curve per row, (rows, corners).
    """
    level = np.minimum(retention, curve_retention.max(axis=1))[:, None]
    best = np.where(curve_retention >= level, curve_gain, -np.inf).max(axis=1)
    left, right = curve_retention[:, :-1], curve_retention[:, 1:]
    crosses = (left - level) * (right - level) < 0
    with np.errstate(divide="ignore", invalid="ignore"):
        share = (level - left) / (right - left)
        interpolated = curve_gain[:, :-1] + share * (curve_gain[:, 1:] - curve_gain[:, :-1])
    crossing = np.where(crosses, interpolated, -np.inf).max(axis=1, initial=-np.inf)
    result: Floats = gain - np.maximum(best, crossing)
    return result


# ---------------------------------------------------------------- picking a checkpoint


def pick(stats: Stats, min_retention: float) -> Pick | None:
    """Pick the highest gain with at least `min_retention`; None if no checkpoint qualifies.

    Ties in gain are resolved by retention.
    """
    draws = stats.draws
    if not draws.gain_known:
        return None
    candidates = [
        index
        for index in range(len(draws.names))
        if math.isfinite(draws.gain[index]) and draws.retention[index] >= min_retention
    ]
    enough = [p for p in candidates if draws.questions(draws.names[p]) >= LEAST_FOR_VERDICT]
    candidates = enough or candidates
    if not candidates:
        return None
    best = max(candidates, key=lambda p: (draws.gain[p], draws.retention[p]))
    rivals = []
    for index in candidates:
        lead = draws.gain_draws[:, best] - draws.gain_draws[:, index]
        n = min(draws.domain_counts[best], draws.domain_counts[index])
        gap = interval_of(draws.gain[best] - draws.gain[index], lead, n)
        few = gap is None or gap.low is None or n < LEAST_FOR_VERDICT
        if index != best and (few or (gap is not None and (gap.low or 0.0) <= 0)):
            rivals.append(draws.names[index])
    kept = stats.points[best].retention
    known = kept is not None and kept.n >= LEAST_FOR_VERDICT
    sure = known and kept is not None and kept.low is not None and kept.low >= min_retention
    return Pick(draws.names[best], min_retention, sure, tuple(rivals))


# ---------------------------------------------------------------- over seeds


@dataclass(frozen=True)
class RecipeStats:
    """One recipe trained with several seeds: its mean, with an interval per source of variance.

    `questions` is the interval over questions for these weights; `seeds` the interval over
    trainings of the recipe for these questions.
    """

    recipe: str
    checkpoints: tuple[str, ...]
    figure: str
    mean: float
    questions: Interval
    seeds: Interval


def seed_interval(values: Sequence[float]) -> Interval:
    """Return Student's t interval of a mean over seeds; infinite for a single seed."""
    k, mean = len(values), fmean(values)
    if k < 2:
        return Interval(mean, -math.inf, math.inf, k)
    reach = student_quantile((1 + LEVEL) / 2, k - 1) * stdev(values) / math.sqrt(k)
    return Interval(mean, mean - reach, mean + reach, k)


def recipe_stats(
    recipe: str, members: Sequence[tuple[str, Draws]], figure: str
) -> RecipeStats | None:
    """Compute the mean of `gain` or `retention` over seeds.

    Args:
        members: (checkpoint, draws of its plane): each seed may have its own reference and
            expert.
    """
    values, drawn, n = [], [], 10**9
    for name, draws in members:
        if figure == "gain" and not draws.gain_known:
            return None
        index = draws.names.index(name)
        measured = draws.gain if figure == "gain" else draws.retention
        resampled = draws.gain_draws if figure == "gain" else draws.retention_draws
        values.append(float(measured[index]))
        drawn.append(resampled[:, index])
        n = min(n, (draws.domain_counts if figure == "gain" else draws.general_counts)[index])
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
