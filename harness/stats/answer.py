"""The largest domain gain at a retention, decided by corrected tests alone.

Three families of tests over the resampled questions, each corrected by Holm's method (1979): which
checkpoints retain the wanted share of the general score, which gain in the domain at all, and
which of those gain as much as the one with the highest gain. For the last family, tests against
the highest one suffice (Hsu, *Multiple Comparisons*, 1996, ch. 4). As elsewhere, something is
stated only if the interval and the corrected test agree.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from kdharness.harness.stats.inference import Floats, Interval, holm
from kdharness.harness.stats.plane import Draws
from kdharness.harness.stats.rows import ALPHA, LEAST_FOR_VERDICT
from kdharness.harness.stats.tradeoff import Stats, interval_of


@dataclass(frozen=True)
class Standing:
    """A checkpoint with a significant gain in the domain."""

    checkpoint: str
    gain: Interval
    retention: Interval


@dataclass(frozen=True)
class Verdict:
    """The answer at a wanted retention.

    Attributes:
        keep: the retention asked for.
        leaders: significantly retain it and gain; none gains significantly less than the first.
        behind: the same, but they gain significantly less than the first leader.
        perhaps: gain no less than the leaders, but their retention is inconclusive.
        general, domain: the numbers of questions.
        compared: the number of checkpoints compared with the reference.
    """

    keep: float
    leaders: tuple[Standing, ...]
    behind: tuple[str, ...]
    perhaps: tuple[Standing, ...]
    general: int
    domain: int
    compared: int


def verdict_at(stats: Stats, reference: str, keep: float) -> Verdict | None:
    """Return the answer at a retention; None if shares of the expert's gain are unknown.

    A checkpoint with fewer than `LEAST_FOR_VERDICT` questions is not among those compared.
    """
    draws = stats.draws
    if not draws.gain_known:
        return None
    standings = {
        point.checkpoint: Standing(point.checkpoint, point.gain, point.retention)
        for point in stats.points
        if point.checkpoint != reference
        and point.gain
        and point.retention
        and draws.questions(point.checkpoint) >= LEAST_FOR_VERDICT
    }
    empty = Verdict(keep, (), (), (), draws.n_general, draws.n_domain, len(standings))
    if min(draws.n_general, draws.n_domain) < LEAST_FOR_VERDICT:
        return empty
    index = {name: draws.names.index(name) for name in standings}
    gains = _signs({n: draws.gain_draws[:, i] for n, i in index.items()})
    kept = _signs({n: draws.retention_draws[:, i] - keep for n, i in index.items()})
    gaining = [one for name, one in standings.items() if gains[name] > 0 and _above(one.gain, 0.0)]
    gaining.sort(key=lambda one: (-one.gain.value, one.checkpoint))
    sure = [one for one in gaining if kept[one.checkpoint] > 0 and _above(one.retention, keep)]
    open_ = [
        one
        for one in gaining
        if one not in sure and not (kept[one.checkpoint] < 0 and _below(one.retention, keep))
    ]
    less = _less_than(draws, sure[0].checkpoint, [*sure[1:], *open_]) if sure else set()
    return Verdict(
        keep,
        tuple(one for one in sure if one.checkpoint not in less),
        tuple(one.checkpoint for one in sure if one.checkpoint in less),
        tuple(one for one in open_ if one.checkpoint not in less),
        draws.n_general,
        draws.n_domain,
        len(standings),
    )


def _above(interval: Interval, bound: float) -> bool:
    return interval.low is not None and interval.low >= bound and interval.value > bound


def _below(interval: Interval, bound: float) -> bool:
    return interval.high is not None and interval.high < bound


def _less_than(draws: Draws, first: str, others: Sequence[Standing]) -> set[str]:
    """Return the checkpoints that gain significantly less than the first."""
    at = draws.names.index(first)
    leads = {
        one.checkpoint: draws.gain_draws[:, at]
        - draws.gain_draws[:, draws.names.index(one.checkpoint)]
        for one in others
    }
    signs = _signs(leads)
    less = set()
    for one in others:
        other = draws.names.index(one.checkpoint)
        gap = draws.gain[at] - draws.gain[other]
        n = min(draws.domain_counts[at], draws.domain_counts[other])
        interval = interval_of(float(gap), leads[one.checkpoint], n)
        if signs[one.checkpoint] > 0 and interval is not None and _above(interval, 0.0):
            less.add(one.checkpoint)
    return less


def _signs(families: Mapping[str, Floats]) -> dict[str, int]:
    """Return 1 or -1 where draws are significantly above or below 0, else 0.

    The tests of all names are one family.
    """
    names = list(families)
    adjusted = holm([_bootstrap_p(families[name]) for name in names])
    signs = {}
    for name, p in zip(names, adjusted, strict=True):
        middle = float(np.nanmedian(families[name])) if p < ALPHA else 0.0
        signs[name] = int(math.copysign(1, middle)) if middle else 0
    return signs


def _bootstrap_p(draws: Floats) -> float:
    """Return the two-sided p of a value of 0, never 0; 1 without finite draws."""
    finite = draws[np.isfinite(draws)]
    if not len(finite):
        return 1.0
    tail = min(int(np.sum(finite <= 0)), int(np.sum(finite >= 0)))
    return min(1.0, 2 * (1 + tail) / (1 + len(finite)))
