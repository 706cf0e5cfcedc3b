"""A grid of charts: one is chosen, and can take the whole room."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import ClassVar

from rich.cells import cell_len
from textual import events
from textual.binding import Binding, BindingType
from textual.message import Message

from kdharness.tui.viewmodels.drawings import Drawing
from kdharness.tui.widgets.canvas import Part
from kdharness.tui.widgets.chart import Chart
from kdharness.tui.widgets.curves import draw_curves

CELL = (36, 8)
"""The smallest chart in a grid, in columns and rows."""
MOST_COLUMNS = 4


class ChartGrid(Chart, can_focus=True):
    """Charts side by side; arrows choose one, Enter or a click shows it alone."""

    BINDINGS: ClassVar[list[BindingType]] = [
        Binding("up,k", "choose(0, -1)", "Chart above", show=False, id="charts.up"),
        Binding("down,j", "choose(0, 1)", "Chart below", show=False, id="charts.down"),
        Binding("left", "choose(-1, 0)", "Chart to the left", show=False, id="charts.left"),
        Binding("right", "choose(1, 0)", "Chart to the right", show=False, id="charts.right"),
        Binding("home", "jump(0)", "First chart", show=False, id="charts.first"),
        Binding("end", "jump(-1)", "Last chart", show=False, id="charts.last"),
        Binding("enter", "zoom", "Whole screen", id="charts.zoom"),
    ]
    DEFAULT_CSS = "ChartGrid { height: 1fr; width: 1fr; }"

    class Chosen(Message):
        """Another chart was chosen, or one was zoomed."""

        def __init__(self, grid: ChartGrid, title: str) -> None:
            super().__init__()
            self.grid, self.title = grid, title

        @property
        def control(self) -> ChartGrid:
            """The grid."""
            return self.grid

    class Panned(Message):
        """The arrows of a chart that has the whole room."""

        def __init__(self, by: int) -> None:
            super().__init__()
            self.by = by

    def __init__(self, id: str | None = None) -> None:
        super().__init__(id=id)
        self.charts: list[Drawing] = []
        self.at, self.first, self.zoomed = 0, 0, False

    # ------------------------------------------------------------ content

    def fill(self, charts: Sequence[Drawing], title: str) -> None:
        """Show these charts, with the one of this title chosen."""
        self.charts = list(charts)
        titles = [chart.title for chart in self.charts]
        self.at = titles.index(title) if title in titles else 0
        self.redraw()

    @property
    def chosen(self) -> Drawing:
        """The chosen chart; an empty one if there is none."""
        return self.charts[self.at] if self.charts else Drawing()

    def shape(self, width: int, height: int) -> tuple[int, int, int]:
        """Return how many charts are side by side, how many are seen, and their height."""
        columns = max(min(width // CELL[0], MOST_COLUMNS, len(self.charts)), 1)
        rows = math.ceil(len(self.charts) / columns)
        seen = max(min(rows, height // CELL[1]), 1)
        return columns, seen, height // seen

    def draw(self, width: int, height: int) -> list[list[Part]]:
        """Return the lines of all charts that are seen, or of the one that has all the room."""
        if not self.charts:
            return [[], [("  no curves yet", "dim")]]
        if self.zoomed:
            return draw_curves(self.chosen, width, height)
        columns, seen, tall = self.shape(width, height)
        row = self.at // columns
        self.first = min(max(self.first, row - seen + 1), row)
        lines: list[list[Part]] = []
        wide = width // columns
        for start in range(self.first * columns, (self.first + seen) * columns, columns):
            cells = []
            for index, chart in enumerate(self.charts[start : start + columns], start):
                # The last column of a row takes what the division left over.
                size = wide if (index + 1) % columns else width - wide * (columns - 1)
                cells.append(self._cell(chart, index == self.at, size, tall))
            lines += [[part for cell in cells for part in cell[y]] for y in range(tall)]
        return lines

    def _cell(self, chart: Drawing, chosen: bool, width: int, height: int) -> list[list[Part]]:
        """Return the lines of one chart, padded to its place in the grid."""
        drawn = draw_curves(chart, width - 2, height)
        if chosen:
            (title, _), *rest = drawn[0]
            drawn[0] = [(title + " ", "chosen"), *rest]
        padded = []
        for y in range(height):
            line = drawn[y] if y < len(drawn) else []
            used = sum(cell_len(text) for text, _ in line)
            padded.append([*line, (" " * max(width - used, 0), "")])
        return padded

    # ------------------------------------------------------------ keys and mouse

    def action_choose(self, across: int, down: int) -> None:
        """Choose the next chart in a direction; alone on the screen, left and right pan."""
        if self.zoomed and across:
            self.post_message(self.Panned(across))
            return
        columns = 1 if self.zoomed else self.shape(*self.size)[0]
        column, target = self.at % columns, self.at + across + down * columns
        if across and not 0 <= column + across < columns:
            return
        if down > 0 and target >= len(self.charts) > (self.at // columns + 1) * columns:
            target = len(self.charts) - 1
        self._choose(target)

    def action_jump(self, index: int) -> None:
        """Choose the first or the last chart."""
        self._choose(index % max(len(self.charts), 1))

    def _choose(self, index: int) -> None:
        if 0 <= index < len(self.charts) and index != self.at:
            self.fill(self.charts, self.charts[index].title)
            self.post_message(self.Chosen(self, self.chosen.title))

    def action_zoom(self) -> None:
        """Show the chosen chart alone, or all of them again."""
        self.zoomed = not self.zoomed and bool(self.charts)
        self.redraw()
        self.post_message(self.Chosen(self, self.chosen.title))

    def on_click(self, event: events.Click) -> None:
        """Show the clicked chart alone, or all of them again."""
        if not self.zoomed and self.charts:
            columns, seen, tall = self.shape(*self.size)
            column = min(event.x // max(self.size.width // columns, 1), columns - 1)
            row = self.first + min(event.y // max(tall, 1), seen - 1)
            if row * columns + column >= len(self.charts):
                return
            self._choose(row * columns + column)
        self.action_zoom()
