"""The pane beside or below a list: details of the row under its cursor, drawn to its size."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING

from rich.cells import cell_len

from kdharness.tui import viewmodels
from kdharness.tui.viewmodels.marks import interval_text
from kdharness.tui.viewmodels.rows import Line
from kdharness.tui.widgets.text_view import TextView, wrap_line

if TYPE_CHECKING:
    from kdharness.tui.viewmodels.drawings import Block, IntervalLine

CHART_ROWS = (7, 14)
"""The fewest and the most rows of a chart in a pane."""
NARROWEST, WIDEST = 12, 60
"""Cells of a drawn interval."""


class Pane(TextView):
    """Lines, charts and intervals; charts grow into the room that is left."""

    def __init__(self, id: str | None = "pane") -> None:
        super().__init__(id=id)
        self.blocks: list[Block] = []
        self.key = ""

    def show(self, key: str, blocks: Sequence[Block]) -> None:
        """Show the details of a row; those of another row from their first line on."""
        other, self.key = key != self.key, key
        if list(blocks) == self.blocks:
            return
        self.blocks = list(blocks)
        self._lay_out()
        if other:
            self.scroll_to(y=0, animate=False)

    def on_resize(self) -> None:
        """Draw to the new size."""
        self._lay_out()
        super().on_resize()

    def _lay_out(self) -> None:
        width = max(self.size.width - 1, 1)
        charts = sum(isinstance(block, viewmodels.Drawing) for block in self.blocks)
        texts = [block for block in self.blocks if isinstance(block, list)]
        used = sum(len(_wrapped(line, width)) for line in texts)
        used += len(self.blocks) - len(texts) - charts
        room = (self.size.height - used) // charts if charts else 0
        rows = min(max(room, CHART_ROWS[0]), CHART_ROWS[1])
        self.set_lines([line for block in self.blocks for line in drawn(block, width, rows)])


def drawn(block: Block, width: int, rows: int) -> Iterator[Line]:
    """Yield the lines of a block at a width; a chart has this many rows."""
    if isinstance(block, viewmodels.Drawing):
        from kdharness.tui.widgets.curves import draw_curves

        for line in draw_curves(block, width, rows):
            yield [(text, "dim" if role == "axis" else role) for text, role in line]
    elif isinstance(block, viewmodels.IntervalLine):
        yield _interval(block, width)
    else:
        yield from _wrapped(block, width)


def _wrapped(line: Line, width: int) -> list[Line]:
    """Return a line on at most two rows."""
    rows = wrap_line(line, width)
    if len(rows) <= 2:
        return rows
    room, kept = width - 1, []
    for text, role in rows[1]:
        kept.append((text[: max(room, 0)], role))
        room -= cell_len(text)
    return [rows[0], [*kept, ("…", "dim")]]


def _interval(block: IntervalLine, width: int) -> Line:
    used = sum(cell_len(text) for text, _ in [*block.head, *block.tail])
    extra = block.extra if width - used - cell_len(block.extra) >= NARROWEST + 3 else ""
    room = min(width - used - cell_len(extra) - 3, WIDEST)
    rest: Line = [*block.tail, (f" {extra}", "dim")]
    if room < NARROWEST:
        return [*block.head, (" ", ""), *rest]
    bar = interval_text(*block.ends, block.left, block.right, room)
    return [*block.head, (f" {bar} ", block.role), *rest]
