"""The base of charts, and checkpoints on a plane. Redrawn when data or size change."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from itertools import pairwise
from typing import ClassVar

from rich.segment import Segment
from rich.style import Style
from textual.strip import Strip
from textual.widget import Widget

from kdharness.harness.util.text import safe_text
from kdharness.tui.viewmodels.rows import ROLES
from kdharness.tui.widgets.canvas import Canvas, Part, Scale, tick_text
from kdharness.tui.widgets.curves import NO_ROOM, frame


@dataclass(frozen=True)
class Mark:
    """One checkpoint on the plane, with intervals if known."""

    name: str
    x: float
    y: float
    x_ends: tuple[float | None, float | None] = (None, None)
    y_ends: tuple[float | None, float | None] = (None, None)
    front: bool = False
    role: str = ""
    named: bool = False


class Chart(Widget):
    """The base of charts: lines are drawn once and cached."""

    COMPONENT_CLASSES: ClassVar[set[str]] = {
        "chart--text",
        "chart--axis",
        "chart--chosen",
        *(f"chart--{role}" for role in ROLES),
    }
    DEFAULT_CSS = "Chart { height: 1fr; width: 1fr; }"

    def __init__(self, id: str | None = None) -> None:
        super().__init__(id=id)
        self._lines: list[list[Part]] | None = None
        self._styles: dict[str, Style] = {}

    def redraw(self) -> None:
        """Draw again after the data changed."""
        self._lines = None
        self.refresh()

    def on_resize(self) -> None:
        """Draw again after the size changed."""
        self.redraw()

    def notify_style_update(self) -> None:
        """Drop cached styles after the theme changed."""
        self._styles.clear()
        super().notify_style_update()

    def _style(self, role: str) -> Style:
        if role not in self._styles:
            self._styles[role] = self.get_component_rich_style(f"chart--{role or 'text'}")
        return self._styles[role]

    def render_line(self, y: int) -> Strip:
        """Render one line of the chart."""
        if self._lines is None:
            self._lines = self.draw(self.size.width, self.size.height)
        parts = self._lines[y] if y < len(self._lines) else []
        base = self._style("text")
        segments = [
            Segment(text, base + self._style(role) if role else base) for text, role in parts
        ]
        return Strip(segments).adjust_cell_length(self.size.width, base)

    def draw(self, width: int, height: int) -> list[list[Part]]:
        """Return all lines; subclasses implement it."""
        return []


@dataclass
class Plane:
    """The data of the scatter chart. Reversed axes have the better side at the end."""

    marks: list[Mark] = field(default_factory=list)
    x_name: str = ""
    y_name: str = ""
    x_reverse: bool = False
    y_reverse: bool = False
    lines: list[list[tuple[float, float]]] = field(default_factory=list)
    chosen: str = ""
    whiskers: bool = True


class PlaneChart(Chart):
    """Checkpoints as numbered points with intervals; filled points are on the front."""

    def __init__(self, id: str | None = None) -> None:
        super().__init__(id=id)
        self.plane = Plane()
        self._waiting = True

    def show(self, plane: Plane) -> None:
        """Show this plane."""
        self.plane, self._waiting = plane, False
        self.redraw()

    def draw(self, width: int, height: int) -> list[list[Part]]:
        """Return both axes, the front, whiskers and points."""
        plane = self.plane
        if self._waiting:
            return [[], [], [("  loading scores …", "dim")]]
        low = [
            " (lower is better)" if reverse else ""
            for reverse in (plane.y_reverse, plane.x_reverse)
        ]
        top: list[Part] = [
            (" ↑ ", "dim"),
            (plane.y_name, "strong"),
            (low[0], "dim"),
            ("   → ", "dim"),
            (plane.x_name, "strong"),
            (low[1], "dim"),
        ]
        if not plane.marks:
            return [top, [], [("  no checkpoint has both scores yet", "dim")]]
        if height < 6 or width < 20:
            return [top, [(NO_ROOM, "dim")]]
        rows = height - 3
        y_scale = self._scale([(m.y, *m.y_ends) for m in plane.marks], rows * 4, plane.y_reverse)
        values = y_scale.ticks(max(rows // 3, 3))
        room = max((len(tick_text(v, values)) for v in values), default=1) + 1
        canvas = Canvas(width - room, rows)
        x_scale = self._scale(
            [(m.x, *m.x_ends) for m in plane.marks], canvas.width * 2, plane.x_reverse
        )
        self._draw_lines(canvas, x_scale, y_scale)
        self._draw_marks(canvas, x_scale, y_scale)
        return frame(canvas, x_scale, y_scale, "", top)

    def _scale(self, values: Sequence[tuple[float | None, ...]], size: int, reverse: bool) -> Scale:
        numbers = [
            v
            for row in values
            for v in (row if self.plane.whiskers else row[:1])
            if v is not None and math.isfinite(v)
        ]
        low, high = min(numbers), max(numbers)
        pad = (high - low) * 0.06
        return Scale(low - pad, high + pad, size, reverse=reverse)

    def _draw_lines(self, canvas: Canvas, x_scale: Scale, y_scale: Scale) -> None:
        bottom = canvas.height * 4 - 1
        if self.plane.whiskers:
            for mark in self.plane.marks:
                # The cross is drawn in the cell of the mark, which has no finer place.
                x, y = x_scale.place(mark.x) & ~1, (bottom - y_scale.place(mark.y)) & ~3 | 1
                if mark.x_ends[0] is not None and mark.x_ends[1] is not None:
                    ends = [x_scale.place(end) for end in mark.x_ends if end is not None]
                    canvas.line(min(ends), y, max(ends), y, "dim")
                if mark.y_ends[0] is not None and mark.y_ends[1] is not None:
                    ends = [bottom - y_scale.place(end) for end in mark.y_ends if end is not None]
                    canvas.line(x, min(ends), x, max(ends), "dim")
        for line in self.plane.lines:
            for (x0, y0), (x1, y1) in pairwise(line):
                canvas.line(
                    x_scale.place(x0),
                    bottom - y_scale.place(y0),
                    x_scale.place(x1),
                    bottom - y_scale.place(y1),
                    "accent",
                )

    def _draw_marks(self, canvas: Canvas, x_scale: Scale, y_scale: Scale) -> None:
        bottom = canvas.height * 4 - 1
        order = sorted(
            enumerate(self.plane.marks, 1),
            key=lambda pair: (pair[1].name != self.plane.chosen, not pair[1].named),
        )
        for number, mark in order:
            x, y = x_scale.place(mark.x) // 2, (bottom - y_scale.place(mark.y)) // 4
            chosen = mark.name == self.plane.chosen
            text = f"{'●' if mark.front else '○'}{number}"
            if chosen or mark.named:
                text += f" {safe_text(mark.name, 20)}"
            row = y
            for shift in (0, -1, 1, -2, 2):
                if canvas.free(x, y + shift, len(text)):
                    row = y + shift
                    break
            if x + len(text) > canvas.width:
                x = max(canvas.width - len(text), 0)
            canvas.put(x, row, text, "chosen" if chosen else mark.role or "strong")
