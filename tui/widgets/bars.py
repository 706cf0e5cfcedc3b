"""The navigation bar and the key bar of every screen."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cached_property
from typing import TYPE_CHECKING, ClassVar, cast

from rich.cells import cell_len
from rich.segment import Segment
from rich.style import Style
from textual.binding import ActiveBinding
from textual.strip import Strip
from textual.widget import Widget

from kdharness.tui.keys import NamesKeys
from kdharness.tui.viewmodels.selection import Selection

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
CHIP = 24
"""Cells that the selection needs beside the places, before its names are cut."""
NONE = Selection()


def clicked(action: str) -> Style:
    """Return the style of text that does something when it is clicked.

    The app does it, not the screen of the bar: a screen that waited for its own removal would
    wait for ever.
    """
    return Style.from_meta({"@click": f'app.act("{action}")'})


BRAND = " kdharness  "


class NavBar(Widget):
    """The current place, the keys of the other places, and the selected checkpoints.

    The selection has a line of its own where it does not fit beside the places.
    """

    COMPONENT_CLASSES: ClassVar[set[str]] = {
        "bar--text",
        "bar--key",
        "bar--here",
        "bar--chip",
        "bar--chip-active",
    }
    DEFAULT_CSS = "NavBar { dock: top; height: 1; }"

    def __init__(self, place: str, selection: Selection = NONE) -> None:
        super().__init__()
        self.place, self.selection = place, selection

    @cached_property
    def places(self) -> list[tuple[str, str, str, str]]:
        """The places, with the keys that the settings give them."""
        named = cast("NamesKeys", self.app).with_keys
        return [
            (named(f"{{app.{name}:{key}}}"), name, title, short)
            for key, name, title, short in PLACES
        ]

    def _width(self, full: bool) -> int:
        """Return the cells that all places take with their full or short titles."""
        sizes = [cell_len(place[0]) + len(place[2 if full else 3]) for place in self.places]
        return sum(sizes) + (3 if full else 2) * len(sizes)

    def on_mount(self) -> None:
        """Take a second line for the selection if it needs one."""
        self._fit()

    def on_resize(self) -> None:
        """Fit the selection into another width."""
        self._fit()

    def show(self, selection: Selection) -> None:
        """Show another selection."""
        if selection != self.selection:
            self.selection = selection
            self._fit()
            self.refresh()

    def _fit(self) -> None:
        two = bool(self.selection.names) and not self._beside()
        self.styles.height = 2 if two else 1

    def _beside(self) -> bool:
        """Return whether places and selection fit on one line."""
        chip = self._chip_width(self.selection.chip(10_000))
        return self._width(False) + min(chip, CHIP) <= self.app.size.width

    def _chip_width(self, parts: Sequence[tuple[str, bool]]) -> int:
        return sum(cell_len(text) for text, _ in parts) + 2 if parts else 0

    def render_line(self, y: int) -> Strip:
        """Render the places, or the selection below them."""
        width = self.size.width
        text = self.get_component_rich_style("bar--text")
        if y:
            return Strip(self._chip(width)).adjust_cell_length(width, text)
        chip = self._chip_width(self.selection.chip(10_000)) if self._beside() else 0
        brand = len(BRAND) if self._width(True) + len(BRAND) + chip <= width else 0
        full = self._width(True) + min(chip, CHIP) <= width
        segments = [Segment(BRAND[:brand], self.get_component_rich_style("bar--here"))]
        segments += self._places(width, full)
        if chip:
            used = sum(cell_len(segment.text) for segment in segments)
            parts = self._chip(width - used)
            gap = width - used - sum(cell_len(part.text) for part in parts)
            segments += [Segment(" " * max(gap, 0), text), *parts]
        return Strip(segments).adjust_cell_length(width, text)

    def _places(self, width: int, full: bool) -> list[Segment]:
        """Return keys and titles; only the keys of other places if the line is too short."""
        text = self.get_component_rich_style("bar--text")
        key = self.get_component_rich_style("bar--key")
        here = self.get_component_rich_style("bar--here")
        only_here = not full and self._width(False) - 1 > width
        segments = []
        for digit, name, title, short in self.places:
            click = clicked(f"app.go('{name}')")
            label = "" if only_here and name != self.place else f" {title if full else short}"
            style = here if name == self.place else text
            segments.append(Segment(digit, (here if name == self.place else key) + click))
            segments += [Segment(label, style + click), Segment("  " if full else " ", text)]
        return segments

    def _chip(self, room: int) -> list[Segment]:
        """Return the selection: the two that are compared stand out."""
        text = self.get_component_rich_style("bar--chip")
        active = self.get_component_rich_style("bar--chip-active")
        click = Style.from_meta({"@click": "app.select_checkpoints"})
        parts = self.selection.chip(max(room - 2, 1))
        segments = [Segment(part, (active if on else text) + click) for part, on in parts]
        return [Segment(" ", text), *segments, Segment(" ", text)] if segments else []


class KeyBar(Widget):
    """The active keys, as many as fit; … stands for more, which ? shows."""

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
        # An action with two keys is shown once, with its first.
        shown: dict[str, ActiveBinding] = {}
        for entry in self.screen.active_bindings.values():
            if entry.binding.show and entry.enabled:
                shown.setdefault(entry.binding.id or entry.binding.action, entry)
        active = sorted(shown.values(), key=lambda a: self._order(a.binding.id or ""))
        for node, binding, _, _ in active:
            name = self.app.get_key_display(binding)
            needed = cell_len(name) + cell_len(binding.description) + 3
            if used + needed > width - (0 if node is self.app else 2):
                segments.append(Segment(" …", text))
                break
            click = clicked(self._target(node, binding.action))
            segments.append(Segment(f" {name}", key_style + click))
            segments.append(Segment(f" {binding.description} ", text + click))
            used += needed
        return Strip(segments).adjust_cell_length(width, text)

    def _order(self, name: str) -> int:
        """Return the order of an action: how to get help and out, the screen's own, the usual."""
        if name in ("app.help", "app.quit"):
            return 0 if name == "app.help" else 1
        usual = name.startswith(("list.", "form.")) or name.endswith(".export")
        return 3 if usual and name not in ("form.start", "form.change") else 2

    def _target(self, node: object, action: str) -> str:
        if "." in action.partition("(")[0]:
            return action
        if node is self.app:
            return f"app.{action}"
        return f"screen.{action}" if node is self.screen else f"focused.{action}"
