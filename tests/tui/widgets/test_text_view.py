"""Text wrapping."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st
from rich.cells import cell_len

from kdharness.tui.viewmodels.rows import text_lines
from kdharness.tui.widgets.text_view import wrap_line
from support.timing import assert_not_quadratic


@given(st.text(max_size=300), st.integers(4, 60))
def test_wrapped_lines_fit_and_keep_all_text_but_spaces(text: str, width: int) -> None:
    for line in text_lines(text):
        pieces = wrap_line(line, width)
        assert all(sum(cell_len(part) for part, _ in piece) <= width for piece in pieces)
        joined = "".join(part for piece in pieces for part, _ in piece)
        assert joined.replace(" ", "") == "".join(part for part, _ in line).replace(" ", "")


@pytest.mark.parametrize("text", ["x", "é", "\u202e", "a\u0301", "a "])
def test_wrapping_time_is_not_quadratic(text: str) -> None:
    def wrap(times: int) -> None:
        lines = text_lines(text * times)
        assert sum(len(wrap_line(line, 40)) for line in lines) > 100

    assert_not_quadratic(wrap, 96_000 // len(text))  # below the limit of a text
