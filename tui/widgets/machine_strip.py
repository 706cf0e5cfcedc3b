"""The machine in one line at the bottom of a screen."""

from __future__ import annotations

from collections.abc import Callable
from typing import ClassVar

from rich.segment import Segment
from textual.strip import Strip
from textual.widget import Widget

from kdharness.tui.viewmodels.machine import Machine, machine_line

SECONDS = 2.0
SMALL = 20
"""Terminals with fewer lines have none to spare."""


class MachineStrip(Widget):
    """GPU, processors, memory and disk; read while its screen is shown, in a thread."""

    COMPONENT_CLASSES: ClassVar[set[str]] = {"strip--text", "strip--strong", "strip--warn"}
    DEFAULT_CSS = "MachineStrip { height: 1; dock: bottom; margin: 0 0 1 0; }"

    machine: Machine | None = None

    def __init__(self, read: Callable[[Callable[[Machine], None]], None]) -> None:
        """Create the line.

        Args:
            read: reads the machine in a thread, and calls what it is given with it.
        """
        super().__init__()
        self.read = read

    def on_mount(self) -> None:
        """Begin to read."""
        self.set_interval(SECONDS, self.look)
        self.call_after_refresh(self.look)

    def on_resize(self) -> None:
        """Leave the line to the screen where there are few."""
        self.display = self.app.size.height >= SMALL

    def look(self) -> None:
        """Read the machine if its screen is on top."""
        if self.display and self.screen.is_current:
            self.read(self.show)

    def show(self, machine: Machine) -> None:
        """Show it; nothing is painted again if the line stays the same."""
        before = self._line()
        self.machine = machine
        if self.is_attached and self._line() != before:
            self.refresh()

    def _line(self) -> list[tuple[str, str]]:
        return machine_line(self.machine, self.size.width - 2) if self.machine else []

    def render_line(self, y: int) -> Strip:
        """Render the line."""
        base = self.get_component_rich_style("strip--text")
        segments = [Segment(" ", base)]
        for text, role in self._line():
            style = self.get_component_rich_style(f"strip--{role}") if role else base
            segments.append(Segment(text, base + style))
        return Strip(segments).adjust_cell_length(self.size.width, base)
