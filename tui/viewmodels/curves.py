"""Curves for the chart: cut to the window, smoothed, downsampled, and cached."""

from __future__ import annotations

import math
from bisect import bisect_left, bisect_right
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field

from kdharness.harness.analysis.curves import HIGH, LOW, downsample, smooth

Points = list[tuple[float, float]]
SMOOTHING = (0.0, 0.6, 0.9, 0.98)
FINEST = 500
"""Minimum number of buckets of a whole curve: more than any terminal is wide."""


ORDER = (
    "ce",
    "kl",
    "attention",
    "rollout_kl",
    "rollout_length",
    "rollout_ended",
    "rollout_distinct",
    "general_loss",
    "domain_loss",
    "learning_rate",
    "grad_norm",
    "tokens_per_second",
    "memory_gb",
)


def curve_order(names: Iterable[str], lead: Sequence[str] = ()) -> list[str]:
    """Return curve names: the loss, those that lead, then by importance; without interval ends."""
    have = [name for name in names if not name.endswith((LOW, HIGH))]
    order = dict.fromkeys(["loss", *lead, *ORDER])
    return [name for name in order if name in have] + sorted(n for n in have if n not in order)


@dataclass
class Thinned:
    """A growing curve, smoothed as it arrives and downsampled when it gets long.

    Repeated downsampling keeps each bucket's lowest and highest point, so that a redraw costs the
    same for a run of any length.
    """

    weight: float
    taken: int = 0
    points: Points = field(default_factory=list)
    _total: float = 0.0
    _scale: float = 0.0

    def follow(self, raw: Points) -> Points:
        """Add the points that are new since the last call."""
        fresh = raw[self.taken :]
        self.taken = len(raw)
        if self.weight:
            keep, new = self.weight, 1 - self.weight
            for x, y in fresh:
                if math.isfinite(y):
                    self._total = self._total * keep + new * y
                    self._scale = self._scale * keep + new
                    self.points.append((x, self._total / self._scale))
        else:
            self.points += fresh
        if len(self.points) > 8 * FINEST:
            self.points = downsample(self.points, FINEST)
        return self.points


@dataclass
class CurveBook:
    """All curves of some runs, growing as steps arrive."""

    curves: dict[str, dict[str, Points]] = field(default_factory=dict)
    _thinned: dict[tuple[str, str, float], Thinned] = field(default_factory=dict)
    _cache: dict[tuple[object, ...], Points] = field(default_factory=dict)

    def last_step(self, run: str, name: str) -> int:
        """Return the newest known step of a curve."""
        points = self.curves.get(run, {}).get(name)
        return int(points[-1][0]) if points else -1

    def add(self, run: str, name: str, points: Points) -> bool:
        """Add new points; return whether there were any."""
        if points:
            self.curves.setdefault(run, {}).setdefault(name, []).extend(points)
        return bool(points)

    def forget(self, run: str) -> None:
        """Drop a run's curves, to be read again after it went back to an earlier step."""
        self.curves.pop(run, None)
        self._thinned = {key: value for key, value in self._thinned.items() if key[0] != run}
        self._cache.clear()

    def names(self, run: str, lead: Sequence[str] = ()) -> list[str]:
        """Return the names of a run's curves: the loss, those that lead, then by importance."""
        return curve_order(self.curves.get(run, {}), lead)

    def last(self, run: str, name: str) -> float | None:
        """Return a curve's newest value."""
        points = self.curves.get(run, {}).get(name)
        return points[-1][1] if points else None

    def interval(self, run: str, name: str) -> tuple[float, float] | None:
        """Return the interval of a curve's newest value, if it has one."""
        ends = self.last(run, name + LOW), self.last(run, name + HIGH)
        return None if ends[0] is None or ends[1] is None else (ends[0], ends[1])

    def ready(
        self, run: str, name: str, window: tuple[float, float] | None, weight: float, buckets: int
    ) -> Points:
        """Return a curve to draw: in the window, smoothed, at most four points per bucket."""
        points = self.curves.get(run, {}).get(name, [])
        key = (run, name, len(points), window, weight, buckets)
        if key not in self._cache:
            if len(self._cache) > 200:
                self._cache.clear()
            if window is None:
                whole = self._thinned.setdefault((run, name, weight), Thinned(weight))
                part = whole.follow(points)
            else:
                part = self._cut(points, window, weight)
            part = downsample(part, buckets)
            self._cache[key] = part
        return self._cache[key]

    def _cut(self, points: Points, window: tuple[float, float], weight: float) -> Points:
        """Return the window's part of a curve; smoothing starts some steps before it."""
        start = max(bisect_left(points, (window[0], float("-inf"))) - 1, 0)
        stop = bisect_right(points, (window[1], float("inf"))) + 1
        if not weight:
            return points[start:stop]
        before = max(start - round(5 / (1 - weight)), 0)
        return [p for p in smooth(points[before:stop], weight) if p[0] >= points[start][0]]
