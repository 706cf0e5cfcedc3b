"""Rows and columns of listings: cells, filtering and sorting. No widgets."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from kdharness.harness.util.text import safe_text

Row = Mapping[str, Any]
Part = tuple[str, str]
"""Text and its role: "", dim, good, warn, bad, accent, strong, or series-1 to series-6."""
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
    "series-5",
    "series-6",
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
    """One column: the higher `leave`, the earlier it is dropped without room (0: never).

    The `name` of a row is cut in its middle, and its title counts the rows. `falling` columns are
    sorted from the highest value on, because it is the best or the newest.
    """

    key: str
    title: str
    width: int
    right: bool = False
    grow: int = 0
    leave: int = 0
    frozen: bool = False
    group: str = ""
    falling: bool = False
    name: bool = False


CellOf = Callable[[Row, Column, int], list[Part]]


def plain_cell(row: Row, column: Column, width: int) -> list[Part]:
    """Return a row's value as text."""
    value = row.get(column.key)
    return [("" if value is None else str(value), "")]


Place = tuple[int, Column]
"""A column and its index among all columns."""


def window_of(
    columns: Sequence[Place], room: int, active: int, offset: int
) -> tuple[int, list[Place]]:
    """Return the frozen columns and as many others as fit, including the active one.

    Args:
        columns: with their indices.
        room: cells for them and a space between each.
        active: the index of the column that must be seen.
        offset: how many are scrolled out; the first result is the new one.
    """
    frozen = [place for place in columns if place[1].frozen]
    rest = [place for place in columns if not place[1].frozen]
    room -= sum(column.width + 1 for _, column in frozen)

    def fitting(start: int) -> list[Place]:
        used = 0
        out: list[Place] = []
        for place in rest[start:]:
            used += place[1].width + 1
            if used - 1 > room and out:
                break
            out.append(place)
        return out

    offset = min(offset, max(len(rest) - 1, 0))
    at = next((n for n, (index, _) in enumerate(rest) if index == active), None)
    if at is not None:
        offset = min(offset, at)
        while rest[at] not in fitting(offset):
            offset += 1
    return offset, [*frozen, *fitting(offset)]


def reason_of(error: str) -> str:
    """Return an error without the folders of the file it begins with, for one cell."""
    return re.sub(r"^(?:[\w ]+: )?(?:~|\.{0,2})/(?:[^/\s:]+/)*(?=[^/\s:]+)", "", error)


def narrowed(rows: Sequence[Row], words: str, columns: Sequence[Column]) -> list[Row]:
    """Return rows that contain all words; `column:word` searches one column."""
    names = {column.key for column in columns}

    def holds(row: Row, word: str) -> bool:
        name, colon, text = word.partition(":")
        if colon and name in names:
            return text in str(row.get(name) or "").casefold()
        return any(word in str(row.get(name) or "").casefold() for name in names)

    terms = words.casefold().split()
    return [row for row in rows if all(holds(row, word) for word in terms)]


def ordered(rows: Sequence[Row], key: str, reverse: bool) -> list[Row]:
    """Sort rows by a column; those without a value come last in either order."""
    have = [row for row in rows if row.get(key) is not None]
    rest = [row for row in rows if row.get(key) is None]
    have.sort(key=lambda row: _sortable(row[key]), reverse=reverse)
    return [*have, *rest]


def _sortable(value: object) -> tuple[int, Any]:
    """Return a sort key: numbers before text."""
    if isinstance(value, (bool, int, float)):
        return (0, value) if value == value else (1, "")
    return (1, str(value).casefold())


Line = list[Part]


TEXT_LIMIT = 100_000
"""Maximum number of characters shown of one text."""


def text_lines(text: str, role: str = "") -> list[Line]:
    """Return sanitised text as lines."""
    return [[(line, role)] for line in safe_text(text, TEXT_LIMIT).expandtabs(4).split("\n")]
