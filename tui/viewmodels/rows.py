"""Rows and columns of listings: what a cell is, how rows are narrowed and ordered. No widget."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from kdharness.harness.util.text import safe_text

Row = Mapping[str, Any]
Part = tuple[str, str]
"""Text and its role: "", dim, good, warn, bad, accent, strong, or series-1 to series-4."""
ROLES = (
    "dim",
    "good",
    "warn",
    "bad",
    "accent",
    "strong",
    "series-1",
    "series-2",
    "series-3",
    "series-4",
)
STATUS_MARKS = {
    "starting": ("◌", "accent"),
    "running": ("▶", "good"),
    "paused": ("‖", "accent"),
    "stopped": ("■", "warn"),
    "finished": ("✓", "dim"),
    "failed": ("✗", "bad"),
    "interrupted": ("!", "bad"),
}
"""A run's status -> its mark and role."""


@dataclass(frozen=True)
class Column:
    """One column: `leave` says how early it goes when there is no room (0: never)."""

    key: str
    title: str
    width: int
    right: bool = False
    grow: int = 0
    leave: int = 0
    frozen: bool = False
    group: str = ""


CellOf = Callable[[Row, Column, int], list[Part]]


def plain_cell(row: Row, column: Column, width: int) -> list[Part]:
    """A row's value as text."""
    value = row.get(column.key)
    return [("" if value is None else str(value), "")]


def narrowed(rows: Sequence[Row], words: str, columns: Sequence[Column]) -> list[Row]:
    """Rows that hold every word; `column:word` looks into one column."""
    names = {column.key for column in columns}

    def holds(row: Row, word: str) -> bool:
        name, colon, text = word.partition(":")
        if colon and name in names:
            return text in str(row.get(name) or "").casefold()
        return any(word in str(row.get(name) or "").casefold() for name in names)

    found = words.casefold().split()
    return [row for row in rows if all(holds(row, word) for word in found)]


def ordered(rows: Sequence[Row], key: str, reverse: bool) -> list[Row]:
    """Rows by a column; those without a value come last either way."""
    have = [row for row in rows if row.get(key) is not None]
    rest = [row for row in rows if row.get(key) is None]
    have.sort(key=lambda row: _sortable(row[key]), reverse=reverse)
    return [*have, *rest]


def _sortable(value: Any) -> tuple[int, Any]:
    """Numbers before text, and both comparable."""
    if isinstance(value, (bool, int, float)):
        return (0, value) if value == value else (1, "")
    return (1, str(value).casefold())


Line = list[Part]


TEXT_LIMIT = 100_000
"""More characters of one text than this are counted, not shown."""


def text_lines(text: str, role: str = "") -> list[Line]:
    """Harmless text as lines."""
    return [[(line, role)] for line in safe_text(text, TEXT_LIMIT).expandtabs(4).split("\n")]
