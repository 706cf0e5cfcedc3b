"""Where figures put their values, and figures as files."""

from __future__ import annotations

import re
from xml.etree import ElementTree

from hypothesis import given
from hypothesis import strategies as st

from kdharness.harness.reports.blocks import LinePlot, PlotPoint, Scatter
from kdharness.harness.reports.svg import Frame, picture, picture_file
from kdharness.harness.util.ticks import log_ticks

VALUES = st.floats(1e-6, 1e6)


@given(st.lists(VALUES, min_size=2, max_size=5, unique=True))
def test_a_reversed_axis_mirrors_and_a_logarithmic_one_keeps_ratios(values: list[float]) -> None:
    plain = Frame(values, values)
    turned = Frame(values, values, reverse=(True, True))
    for value in values:
        assert abs(plain.x(value) + turned.x(value) - plain.x(plain.x0) - plain.x(plain.x1)) < 1e-6
        assert abs(plain.y(value) + turned.y(value) - plain.y(plain.y0) - plain.y(plain.y1)) < 1e-6
    low, high = min(values), max(values)
    log = Frame(values, values, log=True)
    middle = (low * high) ** 0.5
    assert abs(log.y(low) + log.y(high) - 2 * log.y(middle)) < 1e-6
    assert log.y(high) <= log.y(low)


def test_ticks_of_a_logarithmic_axis_are_round_and_few() -> None:
    assert [round(v, 6) for v in log_ticks(1.0, 10.0)] == [1, 2, 5, 10]
    assert [round(v, 9) for v in log_ticks(10**-3.2, 10**1.5)] == [0.001, 0.01, 0.1, 1, 10]
    for low, high in ((1e-30, 1e30), (5e-324, 1.7e308)):
        axes = "".join(Frame([0.0, 1.0], [low, high], log=True).axes("", ""))
        assert len(re.findall(r'text-anchor="end"', axes)) <= 12


def test_a_curve_on_a_logarithmic_axis_leaves_out_what_has_no_place() -> None:
    points = ((0.0, 1.0), (1.0, 0.0), (2.0, -1.0), (3.0, 100.0))
    svg = picture(LinePlot("t", "loss", (("a", points),), "tokens", log=True))
    (path,) = re.findall(r'<path d="M([^"]*)"', svg)
    assert path.count(" L") == 1 and ">tokens</text>" in svg
    nothing = picture(LinePlot("t", "loss", (("a", ((1.0, 0.0),)),), log=True))
    assert "<path" not in nothing


def test_better_is_to_the_right_and_above_on_reversed_axes() -> None:
    marks = (PlotPoint("good", 1.0, 2.0), PlotPoint("bad", 3.0, 5.0))
    block = Scatter("t", "x", "y", marks, paths=(((1.0, 2.0), (3.0, 5.0)),), x_reverse=True)
    (good, _), (bad, _) = re.findall(r'<circle cx="([0-9.]+)" cy="([0-9.]+)"', picture(block))
    assert float(good) > float(bad)
    assert picture(block).count("<path") == 1


def test_a_file_stands_alone() -> None:
    block = LinePlot("<a & b>", "loss", (("$x$ <b>", ((1.0, 2.0), (2.0, 1.0))),))
    root = ElementTree.fromstring(picture_file(block))
    texts = [element.text for element in root.iter() if element.tag.endswith("text")]
    assert "$x$ <b>" in texts and root.get("aria-label") == "<a & b>"
    assert [child.tag.rpartition("}")[2] for child in root][:2] == ["style", "rect"]
