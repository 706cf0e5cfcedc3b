"""The navigation bar and the key bar of every screen."""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar

from rich.cells import cell_len
from rich.segment import Segment
from rich.style import Style
from textual.strip import Strip
from textual.widget import Widget

if TYPE_CHECKING:
    from textual.screen import Screen

PLACES = (
    ("1", "runs", "Runs", "Runs"),
    ("2", "leaderboard", "Leaderboard", "Board"),
    ("3", "tradeoff", "Trade-off", "Trade-off"),
    ("4", "compare", "Compare", "Compare"),
    ("5", "transcripts", "Transcripts", "Texts"),
    ("6", "evaluate", "Evaluate", "Eval"),
    ("7", "judges", "Judges", "Judges"),
    ("8", "assets", "Assets", "Assets"),
    ("9", "doctor", "Doctor", "Doctor"),
)
"""Key, name, title, and short title."""


class NavBar(Widget):
    """The current place, and the digits of the other places."""

    COMPONENT_CLASSES: ClassVar[set[str]] = {"bar--text", "bar--key", "bar--here"}
    DEFAULT_CSS = "NavBar { dock: top; height: 1; }"

    def __init__(self, place: str) -> None:
        super().__init__()
        self.place = place

    def render_line(self, y: int) -> Strip:
        """Render the line."""
        width = self.size.width
        text = self.get_component_rich_style("bar--text")
        key = self.get_component_rich_style("bar--key")
        here = self.get_component_rich_style("bar--here")
        wide = width >= 113
        segments = [Segment(" kdharness  " if wide else "", here if wide else text)]
        for digit, name, title, short in PLACES:
            click = Style.from_meta({"@click": f"app.go('{name}')"})
            label = title if wide else short
            style = here if name == self.place else text
            segments.append(Segment(digit, (here if name == self.place else key) + click))
            gap = "  " if wide else " "
            segments += [Segment(f" {label}", style + click), Segment(gap, text)]
        return Strip(segments).adjust_cell_length(width, text)


class KeyBar(Widget):
    """The active keys, as many as fit; F1 shows them all."""

    COMPONENT_CLASSES: ClassVar[set[str]] = {"bar--text", "bar--key"}
    DEFAULT_CSS = "KeyBar { dock: bottom; height: 1; }"

    def on_mount(self) -> None:
        """Follow changes of the active keys."""
        self.screen.bindings_updated_signal.subscribe(self, self._changed)

    def _changed(self, _screen: Screen[object]) -> None:
        self.refresh()

    def render_line(self, y: int) -> Strip:
        """Render the line."""
        width = self.size.width
        text = self.get_component_rich_style("bar--text")
        key_style = self.get_component_rich_style("bar--key")
        segments: list[Segment] = []
        used = 0
        active = sorted(
            self.screen.active_bindings.values(), key=lambda a: a.binding.id != "app.help"
        )
        for node, binding, enabled, _ in active:
            if not binding.show or not enabled:
                continue
            name = self.app.get_key_display(binding)
            if used + cell_len(name) + cell_len(binding.description) + 3 > width:
                break
            click = Style()
            if "(" not in binding.action:
                click = Style.from_meta({"@click": self._target(node, binding.action)})
            segments.append(Segment(f" {name}", key_style + click))
            segments.append(Segment(f" {binding.description} ", text + click))
            used += cell_len(name) + cell_len(binding.description) + 3
        return Strip(segments).adjust_cell_length(width, text)

    def _target(self, node: object, action: str) -> str:
        if "." in action:
            return action
        if node is self.app:
            return f"app.{action}"
        return f"screen.{action}" if node is self.screen else f"focused.{action}"
