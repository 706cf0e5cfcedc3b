"""A straight line through a few checkpoints, with Student's interval of its slope."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from kdharness.harness.stats.agreement import spearman
from kdharness.harness.stats.inference import student_quantile

LEAST_POINTS = 5
"""With fewer points a line and its interval say nothing about a relation."""


@dataclass(frozen=True)
class Line:
    """y = intercept + slope * x, by least squares.

    Attributes:
        slope, intercept: in units of y per x, and of y.
        low, high: the slope's interval of 95 %, if the errors are normal and independent.
        r: the correlation of x and y.
        rank: the correlation of their ranks (Spearman); None if it has none.
        n: points.
    """

    slope: float
    intercept: float
    low: float
    high: float
    r: float
    rank: float | None
    n: int


def fit_line(x: Sequence[float], y: Sequence[float]) -> Line | None:
    """Fit a line; None with fewer than `LEAST_POINTS` points, or if x or y is the same in all.

    Raises:
        ValueError: x and y of different lengths.
    """
    if len(x) != len(y):
        raise ValueError("x and y must be of the same length")
    n = len(x)
    if n < LEAST_POINTS:
        return None
    a, b = np.asarray(x, dtype=np.float64), np.asarray(y, dtype=np.float64)
    dx, dy = a - a.mean(), b - b.mean()
    sxx, syy = float(dx @ dx), float(dy @ dy)
    if sxx <= 1e-18 or syy <= 1e-18:
        return None
    slope = float(dx @ dy) / sxx
    intercept = float(b.mean() - slope * a.mean())
    rest = dy - slope * dx
    error = math.sqrt(float(rest @ rest) / (n - 2) / sxx)
    half = student_quantile(0.975, n - 2) * error
    r = float(dx @ dy) / math.sqrt(sxx * syy)
    rank = spearman(a.tolist(), b.tolist())
    return Line(slope, intercept, slope - half, slope + half, r, rank, n)
