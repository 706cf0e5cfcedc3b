"""Text drawings of confidence intervals."""

from __future__ import annotations

from kdharness.tui.viewmodels.marks import interval_text


def test_interval_text_draws_the_zero_line() -> None:
    text = interval_text(-1, 0.5, 2, -2, 2, 41, zero=0.0)
    assert text[20] == "┼" and text.index("├") == 10 and text.index("●") == 25 and text[40] == "┤"
    assert len(interval_text(0, 0, 0, 0, 0, 10)) == 10
