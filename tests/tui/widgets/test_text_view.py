"""Text wrapping."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st
from rich.cells import cell_len

from kdharness.tui.viewmodels.rows import text_lines
from kdharness.tui.widgets.text_view import wrap_line


@given(st.text(max_size=300), st.integers(4, 60))
def test_wrapped_lines_fit_and_keep_all_text_but_spaces(text: str, width: int) -> None:
    for line in text_lines(text):
        pieces = wrap_line(line, width)
        assert all(sum(cell_len(part) for part, _ in piece) <= width for piece in pieces)
        joined = "".join(part for piece in pieces for part, _ in piece)
        assert joined.replace(" ", "") == "".join(part for part, _ in line).replace(" ", "")


def test_megabyte_line_is_wrapped_quickly() -> None:
    import time

    began = time.perf_counter()
    for text in ("x" * 1_000_000, "é" * 1_000_000, "\u202e" * 1_000_000, "a\u0301" * 500_000):
        lines = text_lines(text)
        assert sum(len(wrap_line(line, 40)) for line in lines) > 100
    assert time.perf_counter() - began < 6
