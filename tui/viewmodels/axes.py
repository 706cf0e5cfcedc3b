"""What a curve is drawn over: steps, tokens, FLOPs or time, as values at steps. No widgets."""

from __future__ import annotations

import math
from bisect import bisect_left
from collections.abc import Sequence
from dataclasses import dataclass
from statistics import median

from kdharness.harness.types import Run

STEP, TOKENS, FLOPS, TIME = "step", "tokens", "FLOPs", "minutes"
AXES = (STEP, TOKENS, FLOPS, TIME)
COUNTED = (STEP, TOKENS)
"""Axes of whole numbers."""
GAP = 20.0
"""A log that took this many times longer than the median one was followed by a pause or a stop."""
Points = Sequence[tuple[float, float]]


@dataclass(frozen=True)
class Clock:
    """Values of an axis at some steps, both rising; straight lines between them."""

    steps: tuple[float, ...]
    values: tuple[float, ...]

    def at(self, step: float) -> float:
        """Return the value at a step; that of the nearest known one outside them."""
        return _between(self.steps, self.values, step)

    def step_at(self, value: float) -> float:
        """Return the step at a value."""
        return _between(self.values, self.steps, value)


def _between(xs: Sequence[float], ys: Sequence[float], x: float) -> float:
    index = bisect_left(xs, x)
    if index == 0:
        return ys[0]
    if index == len(xs):
        return ys[-1]
    low, high = xs[index - 1], xs[index]
    share = (x - low) / (high - low) if high > low else 1.0
    # Rounding may lead beyond the end, and so above the next value.
    return min(ys[index - 1] + share * (ys[index] - ys[index - 1]), ys[index])


def clock_of(axis: str, run: Run, times: Points, rates: Points) -> Clock | None:
    """Return an axis of a run; None if the run has nothing that tells it.

    Args:
        axis: one of `AXES`.
        times: (step, seconds since 1970) of every log.
        rates: (step, tokens per second since the log before it).
    """
    if not times:
        return None
    if axis == TIME:
        begin = min(run.started or times[0][1], times[0][1])
        minutes = [(time - begin) / 60 for _, time in times]
        return _clock([step for step, _ in times], minutes)
    tokens = _tokens(run, times, rates)
    if axis == TOKENS or tokens is None:
        return tokens if axis == TOKENS else None
    total, flops = run.info.get("tokens"), run.info.get("flops")
    if not total or not flops:
        return None
    return Clock(tokens.steps, tuple(value * flops / total for value in tokens.values))


def _tokens(run: Run, times: Points, rates: Points) -> Clock | None:
    """Return the tokens trained up to each log, from the speed since the one before it.

    The total is exact once a run has ended. The time of a pause or a stop between two logs is not
    that of training: such a log counts as many tokens as the median one.
    """
    at = dict(times)
    known = [(step, rate, at[step]) for step, rate in rates if step in at and math.isfinite(rate)]
    if not known:
        return None
    begin = run.info.get("stage_began") or run.started or known[0][2]
    before = [min(begin, known[0][2]), *(time for _, _, time in known)]
    spans = [time - earlier for (_, _, time), earlier in zip(known, before, strict=False)]
    usual = median(span for span in spans[1:] or spans)
    counts = [
        rate * (usual if span > GAP * max(usual, 0.05) or (i == 0 and len(spans) > 1) else span)
        for i, ((_, rate, _), span) in enumerate(zip(known, spans, strict=True))
    ]
    total = run.info.get("tokens")
    scale = total / sum(counts) if total and sum(counts) > 0 else 1.0
    values, sum_ = [0.0], 0.0
    for count in counts:
        sum_ += count * scale
        values.append(sum_)
    return _clock([0.0, *(step for step, _, _ in known)], values)


def _clock(steps: Sequence[float], values: Sequence[float]) -> Clock:
    """Return a clock whose values never fall, whatever a machine's clock did."""
    rising, highest = [], 0.0
    for value in values:
        highest = max(highest, value)
        rising.append(highest)
    return Clock(tuple(steps), tuple(rising))
