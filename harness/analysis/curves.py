"""Prepare curves for plotting: smoothing, and downsampling that keeps spikes. Pure."""

from __future__ import annotations

import math
from collections.abc import Sequence
from math import isfinite

Points = Sequence[tuple[float, float]]
LOW, HIGH = ":low", ":high"
"""Endings of the names of curves that are the ends of another one's interval."""


def smooth(points: Points, weight: float) -> list[tuple[float, float]]:
    """Return a bias-corrected exponential moving average; non-finite values are skipped."""
    if weight <= 0:
        return list(points)
    out: list[tuple[float, float]] = []
    total = scale = 0.0
    for x, y in points:
        if not math.isfinite(y):
            continue
        total = total * weight + (1 - weight) * y
        scale = scale * weight + (1 - weight)
        out.append((x, total / scale))
    return out


def downsample(points: Points, buckets: int) -> list[tuple[float, float]]:
    """Keep at most four points per bucket of x: its first, lowest, highest and last, in order.

    A one-step spike stays visible however many steps share a column of the screen.
    """
    if len(points) <= 4 * buckets or buckets < 1:
        return list(points)
    low, high = points[0][0], points[-1][0]
    width = (high - low) / buckets or 1.0
    out: list[tuple[float, float]] = []
    start = 0
    for bucket in range(1, buckets + 1):
        edge = low + bucket * width
        stop = start
        while stop < len(points) and (points[stop][0] < edge or bucket == buckets):
            stop += 1
        if stop > start:
            values = [y for _, y in points[start:stop] if isfinite(y)]
            kept = {start, stop - 1}
            if values:
                ends = [y for _, y in points[start:stop]]
                kept |= {start + ends.index(min(values)), start + ends.index(max(values))}
            out += [points[i] for i in sorted(kept)]
        start = stop
    return out
