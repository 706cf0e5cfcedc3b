"""Long text that draws only the visible lines: logs, configs, answers."""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Iterable, Sequence
from typing import ClassVar

from rich.cells import cell_len, split_graphemes
from rich.segment import Segment
from rich.style import Style
from textual.binding import Binding, BindingType
from textual.geometry import Size
from textual.scroll_view import ScrollView
from textual.strip import Strip

from kdharness.tui.viewmodels.rows import ROLES, Line, text_lines


def wrap_line(line: Line, width: int) -> list[Line]:
    """Wrap a line to a width, at spaces if there are any."""
    if width < 2 or sum(cell_len(text) for text, _ in line) <= width:
        return [line]
    out: list[Line] = [[]]
    used = 0
    for text, role in line:
        for word in _words(text):
            size = cell_len(word)
            if used and used + size > width:
                out.append([])
                used = 0
                word = word.lstrip(" ")
                size = cell_len(word)
            if size > width:
                *pieces, word = _pieces(word, width)
                for piece in pieces:
                    out[-1].append((piece, role))
                    out.append([])
                size = cell_len(word)
            if word:
                out[-1].append((word, role))
                used += size
    return out


def _words(text: str) -> Iterable[str]:
    """Yield the words of a text, each with the spaces before it."""
    start = 0
    for index in range(1, len(text)):
        if text[index] == " " and text[index - 1] != " ":
            yield text[start:index]
            start = index
    yield text[start:]


def _pieces(text: str, width: int) -> list[str]:
    """Split a word that is longer than a line."""
    if text.isascii():
        return [text[i : i + width] for i in range(0, len(text), width)]
    out, start, used = [], 0, 0
    for begin, _end, size in split_graphemes(text)[0]:
        if used + size > width:
            out.append(text[start:begin])
            start, used = begin, 0
        used += size
    return [*out, text[start:]]


class TextView(ScrollView, can_focus=True):
    """Scrollable lines of text, wrapped to the width."""

    BINDINGS: ClassVar[list[BindingType]] = [
        Binding("up,k", "scroll(-1)", "Up", show=False, id="text.up"),
        Binding("down,j", "scroll(1)", "Down", show=False, id="text.down"),
        Binding("pageup", "scroll(-20)", "Page up", show=False, id="text.page-up"),
        Binding("pagedown", "scroll(20)", "Page down", show=False, id="text.page-down"),
        Binding("home", "edge(-1)", "Top", show=False, id="text.top"),
        Binding("end", "edge(1)", "Bottom", show=False, id="text.bottom"),
    ]
    COMPONENT_CLASSES: ClassVar[set[str]] = {"lines--text", *(f"lines--{role}" for role in ROLES)}
    DEFAULT_CSS = "TextView { height: 1fr; width: 1fr; scrollbar-size: 1 1; }"

    def __init__(self, *, follow: bool = False, wrap: bool = True, id: str | None = None) -> None:
        super().__init__(id=id)
        self.follow, self.wrap = follow, wrap
        self.source: list[Line] = []
        self._shown: list[Line] = []
        self._width = 0
        self._starts: list[int] = []
        self._styles: dict[str, Style] = {}
        self.twin: TextView | None = None

    def set_lines(self, lines: Sequence[Line]) -> None:
        """Show these lines; a followed text stays at its end."""
        lines, before = list(lines), self.source
        if lines == before:
            return
        pairs = enumerate(zip(lines, before, strict=False))
        first = next((n for n, (new, old) in pairs if new != old), min(len(lines), len(before)))
        self.source = lines
        self._arrange(first)

    def set_text(self, text: str, role: str = "") -> None:
        """Show a text as it is."""
        self.set_lines(text_lines(text, role))

    def _arrange(self, first: int = 0) -> None:
        """Wrap the lines, from the first one that has changed."""
        width = max(self.size.width - 1, 1)
        if width != self._width:
            self._width, first = width, 0
        at_end = self.scroll_offset.y >= self.max_scroll_y - 1
        if first < len(self._starts):
            del self._shown[self._starts[first] :]
            del self._starts[first:]
        for line in self.source[first:]:
            self._starts.append(len(self._shown))
            self._shown += wrap_line(line, width) if self.wrap else [line]
        self.virtual_size = Size(width, len(self._shown))
        if self.follow and at_end:
            self.call_after_refresh(self.scroll_end, animate=False)
        self.refresh()

    def on_resize(self) -> None:
        """Wrap to the new width."""
        self._arrange()

    def notify_style_update(self) -> None:
        """Drop cached styles after the theme changed."""
        self._styles.clear()
        super().notify_style_update()

    def _style(self, role: str) -> Style:
        if role not in self._styles:
            self._styles[role] = self.get_component_rich_style(f"lines--{role or 'text'}")
        return self._styles[role]

    def render_line(self, y: int) -> Strip:
        """Render one visible line."""
        base = self._style("text")
        index = y + self.scroll_offset.y
        line = self._shown[index] if index < len(self._shown) else []
        segments = [
            Segment(text, base + self._style(role) if role else base) for text, role in line
        ]
        return Strip(segments).adjust_cell_length(self.size.width, base)

    def line_at(self, y: int) -> int:
        """Return the index of the line of the text that is drawn at a height."""
        return max(bisect_right(self._starts, y) - 1, 0)

    def reveal(self, index: int) -> None:
        """Scroll a line into view, with some lines above it, unless it is in view."""
        y, top, height = self._starts[index], round(self.scroll_y), max(self.size.height, 1)
        if not top <= y < top + height:
            self.scroll_to(y=max(y - height // 3, 0), animate=False, immediate=True)

    def action_scroll(self, by: int) -> None:
        """Scroll up or down."""
        if abs(by) > 1:
            by = (1 if by > 0 else -1) * max(self.size.height - 1, 1)
        self.scroll_to(y=self.scroll_offset.y + by, animate=False)

    def action_edge(self, side: int) -> None:
        """Scroll to the top or bottom."""
        self.scroll_to(y=0 if side < 0 else self.max_scroll_y, animate=False)

    def watch_scroll_y(self, old_value: float, new_value: float) -> None:
        """Scroll the twin along."""
        super().watch_scroll_y(old_value, new_value)
        if self.twin is not None and round(self.twin.scroll_y) != round(new_value):
            self.twin.scroll_to(y=new_value, animate=False)
