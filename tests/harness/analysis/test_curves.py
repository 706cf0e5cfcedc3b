"""Downsampling and smoothing of curves."""

from __future__ import annotations

import math

from hypothesis import given
from hypothesis import strategies as st

from kdharness.harness.analysis.curves import downsample, smooth

VALUES = st.floats(-1e6, 1e6, allow_nan=False)


@given(st.lists(VALUES, min_size=1, max_size=3000), st.integers(1, 120))
def test_downsampling_keeps_extremes_and_endpoints(values: list[float], buckets: int) -> None:
    points = list(enumerate(values))
    kept = downsample(points, buckets)
    assert len(kept) <= max(4 * buckets, 4)
    assert kept[0] == points[0] and kept[-1] == points[-1]
    assert max(y for _, y in kept) == max(values) and min(y for _, y in kept) == min(values)
    assert [x for x, _ in kept] == sorted({x for x, _ in kept})


def test_smoothing_starts_at_the_first_value_and_skips_nan() -> None:
    points = [(0.0, 4.0), (1.0, math.nan), (2.0, 4.0), (3.0, 0.0)]
    out = smooth(points, 0.9)
    assert out[0] == (0.0, 4.0) and out[1] == (2.0, 4.0) and 0 < out[2][1] < 4
