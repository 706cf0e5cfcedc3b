"""Rows and columns of listings: cells, filtering and sorting. No widgets."""

from __future__ import annotations

import re
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from kdharness.harness.util.text import safe_text

if TYPE_CHECKING:
    from kdharness.harness.store.removal import Annotation

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


def laid_out(
    columns: Sequence[Column], room: int, active: int, offset: int
) -> tuple[int, list[tuple[int, Column, int]]]:
    """Return the columns that fit, each with its index and its width.

    Those with the highest `leave` go first; the others are scrolled.

    Args:
        columns: all columns.
        room: cells for them, a gap of one after each but the last.
        active: index of the column that stays in view.
        offset: how many columns were scrolled out, as returned before.
    """
    kept = list(enumerate(columns))

    def need() -> int:
        return sum(column.width + 1 for _, column in kept) - 1

    while need() > room and any(column.leave for _, column in kept):
        kept.remove(max(kept, key=lambda pair: pair[1].leave))
    if need() > room:
        offset, kept = window_of(kept, room, active, offset)
    spare, shares = max(0, room - need()), sum(column.grow for _, column in kept)
    extra = [spare * column.grow // shares if shares else 0 for _, column in kept]
    return offset, [(n, c, c.width + more) for (n, c), more in zip(kept, extra, strict=True)]


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


FOLDER = r"^(?:[\w ]+: )?(?:~|\.{0,2})/(?:[^/\s:]+/)*(?=[^/\s:]+)"
FILE = r"^[^/\s:,]+\.[A-Za-z]\w*(?:[:,] ?(?:line )?\d+)*: (?=\S)"
"""The file, and perhaps the line, that an error begins with once its folders are gone."""


def reason_of(error: str, room: int = 10_000) -> str:
    """Return an error without the folders of the file it begins with, for one cell.

    Where it is longer than the room for it, the reason matters more than the file and the line.
    """
    text = re.sub(FOLDER, "", error)
    return text if len(text) <= room else re.sub(FILE, "", text, count=1)


def is_heading(row: Row) -> bool:
    """Return whether a row is the heading of a group."""
    return "heading" in row


def grouped(
    rows: Sequence[Row], group_of: Callable[[Row], str], folded: Collection[str], key: str
) -> list[Row]:
    """Return rows below a heading for each group, in the order in which groups first appear.

    Args:
        rows: filtered and sorted.
        group_of: the name of a row's group.
        folded: groups whose rows are not shown; their headings hold them as `hidden`.
        key: the field that names a row.
    """
    groups: dict[str, list[Row]] = {}
    for row in rows:
        groups.setdefault(group_of(row), []).append(row)
    out: list[Row] = []
    for name, members in groups.items():
        is_folded = name in folded
        states = [str(row.get("status") or "") for row in members]
        counts = [f"{states.count(state)} {state}" for state in dict.fromkeys(states) if state]
        out.append(
            {
                key: f"group:{name}",
                "heading": name,
                "told": f"{len(members)}: {', '.join(counts)}" if counts else str(len(members)),
                "hidden": members if is_folded else [],
                "members": [str(row.get(key)) for row in members],
            }
        )
        out += [] if is_folded else members
    return out


UNSEEN = ("tags", "note")
"""What a row is also found by, although no column shows it."""


def annotation_words(found: Annotation | None) -> str:
    """Return tags and note on one line: `#good #paper: the note's first line`."""
    if found is None:
        return ""
    tags = " ".join(f"#{tag}" for tag in found.tags)
    return ": ".join(filter(None, [tags, found.note.partition("\n")[0]]))


def narrowed(rows: Sequence[Row], words: str, columns: Sequence[Column]) -> list[Row]:
    """Return rows that contain all words; `column:word` searches one column."""
    names = {column.key for column in columns} | {*UNSEEN}

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
