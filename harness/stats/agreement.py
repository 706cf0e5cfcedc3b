"""Agreement between raters: rank correlation and kappa. Pure."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from kdharness.harness.stats.inference import Floats


def spearman(first: Sequence[float], second: Sequence[float]) -> float | None:
    """Compute the rank correlation, with mean ranks for ties; None if one side is constant."""
    a, b = mean_ranks(first), mean_ranks(second)
    if len(a) < 2 or np.ptp(a) == 0 or np.ptp(b) == 0:
        return None
    return float(np.corrcoef(a, b)[0, 1])


def mean_ranks(values: Sequence[float] | Floats) -> Floats:
    """Return the rank of each value from 1, the mean rank for ties."""
    array = np.asarray(values, dtype=np.float64)
    _, inverse, counts = np.unique(array, return_inverse=True, return_counts=True)
    ends = np.cumsum(counts)
    means = ends - (counts - 1) / 2
    return np.asarray(means[inverse.ravel()], dtype=np.float64)


def cohen_kappa(first: Sequence[object], second: Sequence[object]) -> float | None:
    """Compute chance-corrected agreement of two raters; None if chance agreement is 1."""
    n = len(first)
    if n == 0:
        return None
    observed = sum(a == b for a, b in zip(first, second, strict=True)) / n
    labels = set(first) | set(second)
    expected = sum(
        (sum(a == label for a in first) / n) * (sum(b == label for b in second) / n)
        for label in labels
    )
    return None if expected >= 1 else (observed - expected) / (1 - expected)
