"""Curves as the chart wants them: cut to the window, smoothed, thinned. Kept between redraws."""

from __future__ import annotations

from bisect import bisect_left, bisect_right
from dataclasses import dataclass, field

from kdharness.harness.views import downsample, smooth

Points = list[tuple[float, float]]
SMOOTHING = (0.0, 0.6, 0.9, 0.98)
FINEST = 2000


@dataclass
class CurveBook:
    """Every curve of some runs, growing as steps come in."""

    curves: dict[str, dict[str, Points]] = field(default_factory=dict)
    _cache: dict[tuple[object, ...], Points] = field(default_factory=dict)

    def last_step(self, run: str, name: str) -> int:
        """The newest step that is known of a curve."""
        points = self.curves.get(run, {}).get(name)
        return int(points[-1][0]) if points else -1

    def add(self, run: str, name: str, points: Points) -> bool:
        """Take new points; whether there were any."""
        if points:
            self.curves.setdefault(run, {}).setdefault(name, []).extend(points)
        return bool(points)

    def forget(self, run: str) -> None:
        """A run went back to an earlier step: read it anew."""
        self.curves.pop(run, None)
        self._cache.clear()

    def names(self, run: str) -> list[str]:
        """The curves of a run, the ones one looks at first in front."""
        order = ["loss", "ce", "kl", "attention", "general_loss", "domain_loss", "learning_rate",
                 "grad_norm", "tokens_per_second", "memory_gb"]  # fmt: skip
        have = self.curves.get(run, {})
        return [n for n in order if n in have] + sorted(n for n in have if n not in order)

    def last(self, run: str, name: str) -> float | None:
        """A curve's newest figure."""
        points = self.curves.get(run, {}).get(name)
        return points[-1][1] if points else None

    def span(self, runs: list[str], name: str) -> tuple[float, float]:
        """The first and the last step of a curve over some runs."""
        ends = [
            (points[0][0], points[-1][0])
            for run in runs
            if (points := self.curves.get(run, {}).get(name))
        ]
        return (min(a for a, _ in ends), max(b for _, b in ends)) if ends else (0.0, 1.0)

    def ready(
        self, run: str, name: str, window: tuple[float, float] | None, weight: float, buckets: int
    ) -> Points:
        """A curve to be drawn: inside the window, smoothed, at most four points a bucket."""
        points = self.curves.get(run, {}).get(name, [])
        key = (run, name, len(points), window, weight, buckets)
        if key not in self._cache:
            if len(self._cache) > 200:
                self._cache.clear()
            part = points
            if window is not None:
                start = bisect_left(points, (window[0], float("-inf")))
                stop = bisect_right(points, (window[1], float("inf")))
                part = points[max(start - 1, 0) : stop + 1]
            if weight == 0:
                part = downsample(part, buckets)
            else:
                part = downsample(smooth(downsample(part, FINEST), weight), buckets)
            self._cache[key] = part
        return self._cache[key]
