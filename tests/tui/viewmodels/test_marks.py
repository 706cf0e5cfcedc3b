"""Marks in text: intervals with their zero."""

from __future__ import annotations

from kdharness.tui.viewmodels.marks import interval_text


def test_intervals_are_drawn_with_their_zero() -> None:
    text = interval_text(-1, 0.5, 2, -2, 2, 41, zero=0.0)
    assert text[20] == "┼" and text.index("├") == 10 and text.index("●") == 25 and text[40] == "┤"
    assert len(interval_text(0, 0, 0, 0, 0, 10)) == 10
