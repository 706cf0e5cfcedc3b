"""Table output, and sanitizing of hostile text."""

from __future__ import annotations

import csv
import io
import json
import unicodedata

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kdharness.harness.cli.grid import interval_parts
from kdharness.harness.util.tables import FORMATS, cell, format_rows
from kdharness.harness.util.text import figure, safe_text

HOSTILE = [
    "\x1b[31mred\x1b[0m",
    "\x1b]8;;http://x\x07link\x1b]8;;\x07",
    "\x1b]52;c;aGk=\x07",
    "a\u202egnirts",
    "zero\u200bwidth",
    "nul\x00",
    "bell\x07",
    "\x9b31m",
    "\ud800",
    "e" + "\u0301" * 500,
    "two\u2028lines\u2029here",
]


@pytest.mark.parametrize("text", HOSTILE)
def test_safe_text_neutralizes_hostile_text(text: str) -> None:
    shown = safe_text(text)
    assert not any(unicodedata.category(c)[0] == "C" for c in shown)
    assert len(shown.splitlines()) == 1
    assert len(shown) < 60


@given(text=st.text(max_size=200))
def test_safe_text_keeps_no_control_characters_except_newline_and_tab(text: str) -> None:
    shown = safe_text(text)
    assert all(c in "\n\t" or unicodedata.category(c)[0] != "C" for c in shown)
    assert safe_text(shown) == shown


def test_long_text_is_truncated_with_a_count() -> None:
    assert safe_text("x" * 1_000_000, 10) == "x" * 10 + "… (+999990 characters)"


ROWS = [
    {"name": "a|b", "value": 1.23456, "note": None, "extra": 1},
    {"name": "=HYPERLINK()", "value": 2, "note": ["x", "y"], "extra": 2},
]


def test_json_keeps_all_keys_and_types() -> None:
    assert json.loads(format_rows(ROWS, ["name"], "json")) == ROWS


def test_csv_escapes_formulas() -> None:
    table = list(csv.reader(io.StringIO(format_rows(ROWS, ["name", "value", "note"], "csv"))))
    assert table[0] == ["name", "value", "note"]
    assert table[2] == ["'=HYPERLINK()", "2", "x y"]


def test_markdown_escapes_bars() -> None:
    assert "a\\|b" in format_rows(ROWS, ["name"], "md")


def test_tables_align_wide_characters() -> None:
    lines = format_rows([{"n": "日本", "v": 1}, {"n": "abcd", "v": 22}], ["n", "v"], "table")
    assert lines.splitlines() == ["n      v", "日本   1", "abcd  22"]


def test_cell_formatting() -> None:
    assert [cell(v) for v in (None, True, 0.123456, 12345.6, ("a", 1))] == [
        "–",
        "yes",
        "0.1235",
        "12,346",
        "a 1",
    ]
    assert set(FORMATS) == {"table", "json", "csv", "md"}


def test_no_number_is_shown_as_minus_zero() -> None:
    """A zero whose sign was turned is -0.0, and a small loss rounds to it."""
    assert interval_parts((-0.001, -0.003, 0.001), 2)[0] == "0.00"
    assert (cell(-0.0), figure(-0.0), figure(-0.0, 3)) == ("0", "0", "0")
    assert (cell(-0.25), figure(-0.25)) == ("-0.25", "-0.25")
