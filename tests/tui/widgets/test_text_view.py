"""Text wrapping."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st
from rich.cells import cell_len
from textual.app import App, ComposeResult

from kdharness.tui.viewmodels.rows import text_lines
from kdharness.tui.widgets.text_view import TextView, wrap_line
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


class OneText(App[None]):
    def compose(self) -> ComposeResult:
        yield TextView()


async def test_a_text_that_changes_is_shown_like_one_that_is_new() -> None:
    long = "word " * 20
    app = OneText()
    async with app.run_test(size=(40, 10)) as pilot:
        view = app.query_one(TextView)
        for text in ("a", f"a\n{long}", f"a\n{long}\nb", f"a\nc\n{long}", "a", "", f"{long}\na"):
            view.set_text(text)
            await pilot.pause()
            fresh = [wrap_line(line, 39) for line in text_lines(text)]
            rows = [row for line in fresh for row in line]
            drawn = [view.render_line(y).text.rstrip() for y in range(len(rows))]
            assert drawn == ["".join(part for part, _ in row).rstrip() for row in rows]
            assert view.virtual_size.height == len(rows)
            assert [view.line_at(y) for y in range(len(rows))] == [
                index for index, line in enumerate(fresh) for _ in line
            ]
        await pilot.resize_terminal(20, 10)
        await pilot.pause()
        assert view.virtual_size.height > len(rows)
