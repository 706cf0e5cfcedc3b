"""Character graphics: ticks, scales, braille dots and letters."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kdharness.harness.util.ticks import ticks
from kdharness.tui.viewmodels.drawings import Drawing, Series
from kdharness.tui.widgets.canvas import Canvas, Scale, tick_text
from kdharness.tui.widgets.chart import Mark, Plane, PlaneChart
from kdharness.tui.widgets.curves import draw_curves

VALUES = st.floats(-1e6, 1e6, allow_nan=False)


@given(st.floats(-1e5, 1e5), st.floats(1e-4, 1e5), st.integers(2, 12))
def test_ticks_are_inside_the_range_and_distinct(low: float, span: float, count: int) -> None:
    tick_values = ticks(low, low + span, count)
    assert all(low - span * 1e-6 <= v <= low + span * (1 + 1e-6) for v in tick_values)
    assert len(tick_values) <= count + 1
    texts = [tick_text(v, tick_values) for v in tick_values]
    assert span < abs(low) * 1e-5 or len(set(texts)) == len(texts)


def test_log_and_reversed_scales() -> None:
    scale = Scale(0.1, 1000, 101, log=True)
    assert [scale.place(v) for v in (0.1, 10, 1000)] == [0, 50, 100]
    assert Scale(1, 3, 101, reverse=True).place(3) == 0
    assert scale.place(-1) == 0  # a value without a logarithm stays on the canvas


def test_canvas_draws_dots_with_letters_on_top() -> None:
    canvas = Canvas(4, 2)
    canvas.line(0, 0, 7, 7, "series-1")
    canvas.put(3, 0, "A", "series-2")
    assert canvas.row(0)[-1] == ("A", "series-2")
    assert any("\u2800" < char <= "\u28ff" for text, _ in canvas.row(0) for char in text)


@given(st.integers(0, 10_000), st.integers(0, 50), st.integers(1, 12))
def test_ticks_of_steps_are_whole_and_not_negative(first: int, more: int, count: int) -> None:
    scale = Scale(first, first + more, 80, whole=True)
    values = scale.ticks(count)
    assert values and all(v >= 0 and v == int(v) for v in values)
    assert 0 <= scale.place(first) <= 79


def test_a_small_window_is_not_called_a_lack_of_data() -> None:
    mark = Mark("kd", 1.0, 2.0)
    chart = PlaneChart()
    assert "loading" in str(chart.draw(60, 4))
    chart.show(Plane([mark], "x", "y"))
    assert "larger window" in str(chart.draw(60, 4))
    chart.show(Plane())
    assert "no checkpoint" in str(chart.draw(60, 4))
    curves = Drawing([Series("kd", [(1.0, 2.0)])])
    assert "larger window" in str(draw_curves(curves, 60, 4))


@pytest.mark.parametrize(("count", "marked"), [(1, 1), (2, 2), (11, 11), (200, 0)])
def test_measured_points_are_marked_where_they_are_far_apart(count: int, marked: int) -> None:
    """Held-out losses are measured a few times; the line between them is a guess."""
    points = [(float(step), 3.0 - step / count) for step in range(count)]
    drawn = draw_curves(Drawing([Series("general_loss", points)]), 60, 20)
    assert sum(text.count("•") for line in drawn for text, _ in line) == marked
