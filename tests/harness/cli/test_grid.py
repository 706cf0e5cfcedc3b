"""Side-by-side tables: numbers with intervals, and blocks that fit a width."""

from __future__ import annotations

import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kdharness.harness.cli.grid import (
    GridColumn,
    cell_width,
    decimals_for,
    distinct,
    format_grid,
    interval_parts,
)


@pytest.mark.parametrize(
    ("estimate", "shown"),
    [
        ((0.2625, 0.1839, 0.3414), ("0.263", "±.079")),
        ((1.0, 0.9501, 1.0), ("1.000", "+0−.050")),
        ((0.0, 0.0, 0.04994), ("0.000", "+.050−0")),
        ((53.49, None, None), ("53.49", "")),
        ((4.386, 4.127, 4.598), ("4.39", "+.21−.26")),
        ((46.2, 44.0, 48.4), ("46.2", "±2.2")),
        ((None, None, None), ("–", "")),
    ],
)
def test_a_value_with_its_interval(
    estimate: tuple[float | None, float | None, float | None], shown: tuple[str, str]
) -> None:
    assert interval_parts(estimate, decimals_for([estimate])) == shown


ENDS = st.tuples(
    st.floats(-1e4, 1e4, allow_nan=False),
    st.floats(1e-4, 1e3),
    st.floats(1e-4, 1e3),
)


@given(ENDS)
def test_the_printed_interval_is_the_real_one(ends: tuple[float, float, float]) -> None:
    value, down, up = ends
    estimate = (value, value - down, value + up)
    decimals = decimals_for([estimate])
    assert decimals is not None
    number, reach = interval_parts(estimate, decimals)
    sizes = [float(size) for size in re.findall(r"[\d.]+", reach)]
    assert len(sizes) == (1 if reach.startswith("±") else 2)
    rounding = 0.51 * 10**-decimals
    assert abs(float(number) - value) <= rounding + 1e-9
    for printed, real in zip((sizes[0], sizes[-1]), (up, down), strict=True):
        assert abs(printed - real) <= rounding + 0.06 * max(up, down)


NAMES = st.text(st.characters(codec="utf-8", categories=["L", "N"]), min_size=1, max_size=12)


@given(st.lists(st.tuples(NAMES, NAMES), min_size=1, max_size=9), st.integers(40, 120))
def test_no_line_is_wider_than_the_terminal_and_no_column_is_lost(
    cells: list[tuple[str, str]], width: int
) -> None:
    label = GridColumn(("name",), ("row",))
    text = format_grid([label], [[GridColumn((head,), (cell,))] for head, cell in cells], width)
    assert all(cell_width(line) <= width for line in text.splitlines())
    words = text.split()
    for head, cell in cells:
        assert words.count(head) >= 1 and words.count(cell) >= 1
    assert len(words) == 2 * len(cells) + 2 * len(text.split("\n\n"))


def test_long_names_lose_their_middle_but_stay_distinct() -> None:
    names = ["sweep-lr0.0004-seed105-with-a-long-name", "kd"]
    assert distinct(names, 80) == ["sweep-lr0.00…h-a-long-name", "kd"]
    alike = ["x" * 20 + "1" + "x" * 20, "x" * 20 + "2" + "x" * 20]
    assert distinct(alike, 60) == alike


def test_rows_without_a_value_in_a_block_are_left_out_of_it() -> None:
    label = GridColumn(("name",), ("a", "b", "none"))
    wide = [GridColumn((f"metric-{n:020}",), (f"{n}", "–", "–")) for n in (1, 2)]
    other = GridColumn(("metric-" + "9" * 20,), ("–", "9", "–"))
    first, second, third = format_grid(
        [label], [[c] for c in (*wide, other)], 40, sparse=True
    ).split("\n\n")
    assert [line.split()[0] for line in first.splitlines()] == ["name", "a", "none"]
    assert [line.split()[0] for line in second.splitlines()] == ["name", "a", "none"]
    assert [line.split()[0] for line in third.splitlines()] == ["name", "b", "none"]
