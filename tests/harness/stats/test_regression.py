"""A line through points, against the textbook's formulas and numpy's."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from kdharness.harness.stats.regression import fit_line

# Forbes' measurements (1857), the first eight: boiling point in degrees F, pressure in inches.
BOILING = [194.5, 194.3, 197.9, 198.4, 199.4, 199.9, 200.9, 201.1]
PRESSURE = [20.79, 20.79, 22.40, 22.67, 23.15, 23.35, 23.89, 23.99]


def test_slope_and_interval_are_the_textbooks() -> None:
    line = fit_line(BOILING, PRESSURE)
    assert line is not None
    slope, intercept = np.polyfit(BOILING, PRESSURE, 1)
    assert (line.slope, line.intercept) == pytest.approx((slope, intercept))
    rest = np.array(PRESSURE) - (intercept + slope * np.array(BOILING))
    spread = np.array(BOILING) - np.mean(BOILING)
    error = np.sqrt((rest @ rest) / 6 / (spread @ spread))
    # t of 97.5 % with 6 degrees of freedom.
    assert line.high - line.slope == pytest.approx(2.446912 * error, rel=1e-4)
    assert line.slope - line.low == pytest.approx(line.high - line.slope)
    assert line.r == pytest.approx(np.corrcoef(BOILING, PRESSURE)[0, 1])
    assert line.n == 8 and line.rank is not None and line.rank > 0.98


@pytest.mark.parametrize(
    ("x", "y"),
    [([1, 2, 3, 4], [1, 2, 3, 4]), ([1] * 5, [1, 2, 3, 4, 5]), ([1, 2, 3, 4, 5], [2] * 5)],
)
def test_too_few_points_or_no_spread_give_no_line(x: list[float], y: list[float]) -> None:
    assert fit_line(x, y) is None


def test_sides_of_unlike_length_are_an_error() -> None:
    with pytest.raises(ValueError, match="same length"):
        fit_line([1.0] * 5, [1.0] * 6)


@given(st.lists(st.tuples(st.floats(-9, 9), st.floats(-9, 9)), min_size=5, max_size=12))
def test_line_is_turned_with_y(points: list[tuple[float, float]]) -> None:
    x, y = [p[0] for p in points], [p[1] for p in points]
    line, other = fit_line(x, y), fit_line(x, [-value for value in y])
    assert (line is None) == (other is None)
    if line is not None and other is not None:
        assert other.slope == pytest.approx(-line.slope)
        assert (other.low, other.high) == pytest.approx((-line.high, -line.low))
        assert line.low <= line.slope <= line.high


def test_intervals_cover_the_slope() -> None:
    rng = np.random.default_rng(0)
    hits = 0
    for _ in range(400):
        x = rng.uniform(0, 1, 6)
        line = fit_line(x.tolist(), (2 * x + rng.normal(0, 0.3, 6)).tolist())
        assert line is not None
        hits += line.low <= 2 <= line.high
    assert 0.92 <= hits / 400 <= 0.98
