"""A listing that draws only the visible rows.

A thousand runs open as fast as ten: cells are created only when their line is painted. Columns are
dropped in a set order when the terminal is narrow, and the remaining ones scroll sideways next to
the frozen ones. Cells are plain text with a role, never markup.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import ClassVar

from rich.cells import cell_len, set_cell_size
from rich.segment import Segment
from rich.style import Style
from textual import events
from textual.binding import Binding, BindingType
from textual.geometry import Region, Size
from textual.message import Message
from textual.scroll_view import ScrollView
from textual.strip import Strip

from kdharness.harness.util.text import safe_text
from kdharness.tui.viewmodels.rows import (
    ROLES,
    CellOf,
    Column,
    Row,
    laid_out,
    narrowed,
    ordered,
    plain_cell,
)
from kdharness.tui.viewmodels.selection import shortened


class Listing(ScrollView, can_focus=True):
    """Rows to browse, mark, sort and filter."""

    BINDINGS: ClassVar[list[BindingType]] = [
        Binding("up,k", "move(-1)", "Up", show=False, id="list.up"),
        Binding("down,j", "move(1)", "Down", show=False, id="list.down"),
        Binding("pageup", "page(-1)", "Page up", show=False, id="list.page-up"),
        Binding("pagedown", "page(1)", "Page down", show=False, id="list.page-down"),
        Binding("home", "edge(-1)", "First row", show=False, id="list.first"),
        Binding("end", "edge(1)", "Last row", show=False, id="list.last"),
        Binding("left", "column(-1)", "Column to the left", show=False, id="list.left"),
        Binding("right", "column(1)", "Column to the right", show=False, id="list.right"),
        Binding("s", "sort", "Sort by the column", show=False, id="list.sort"),
        Binding("enter", "select", "Open", id="list.open"),
    ]
    COMPONENT_CLASSES: ClassVar[set[str]] = {
        "listing--header",
        "listing--active",
        "listing--cursor",
        "listing--row",
        *(f"listing--{role}" for role in ROLES),
    }
    DEFAULT_CSS = "Listing { height: 1fr; scrollbar-size: 1 1; }"

    class Highlighted(Message):
        """The cursor has moved to another row."""

        def __init__(self, listing: Listing, row: Row | None) -> None:
            super().__init__()
            self.listing, self.row = listing, row

        @property
        def control(self) -> Listing:
            """The listing."""
            return self.listing

    class Selected(Highlighted):
        """Enter, or a click on the row with the cursor."""

    class ColumnChosen(Message):
        """Another column was chosen."""

        def __init__(self, listing: Listing) -> None:
            super().__init__()
            self.listing = listing

        @property
        def control(self) -> Listing:
            """The listing."""
            return self.listing

    def __init__(
        self,
        columns: Sequence[Column],
        cell: CellOf = plain_cell,
        *,
        key: str = "id",
        empty: str = "nothing here yet",
        waiting: str = "reading …",
        marks: bool = False,
        opens: bool = True,
        id: str | None = None,
    ) -> None:
        super().__init__(id=id)
        self.opens = opens
        self.columns = list(columns)
        self.cell, self.key, self.marks = cell, key, marks
        # Placeholder texts: before the first rows arrive, and where there are none.
        self.waiting, self.empty = waiting, empty
        self.all_rows: list[Row] = []
        self.rows: list[Row] = []
        self.marked: list[str] = []
        self.cursor = 0
        self.active = 0
        self.sort_key: str | None = None
        self.reverse = False
        self.words = ""
        self._offset = 0
        self._layout: list[tuple[int, Column, int]] = []
        self._styles: dict[str, Style] = {}

    # ------------------------------------------------------------ content

    @property
    def row(self) -> Row | None:
        """The row under the cursor."""
        return self.rows[self.cursor] if 0 <= self.cursor < len(self.rows) else None

    @property
    def lines(self) -> int:
        """The height of the header and the rows, or of the placeholder text."""
        return self.header_lines + max(len(self.rows), 2)

    @property
    def header_lines(self) -> int:
        """One line of titles, and one of groups if there are any."""
        return 2 if any(column.group for column in self.columns) else 1

    def set_columns(self, columns: Sequence[Column]) -> None:
        """Replace the columns; rows stay."""
        self.columns = list(columns)
        self.active = min(self.active, max(len(self.columns) - 1, 0))
        self._arrange()

    def set_rows(self, rows: Sequence[Row]) -> None:
        """Show these rows; keep the cursor on its row, and repaint only changed lines."""
        before, old = self.rows, self.row
        first, self.waiting = bool(self.waiting), ""
        self.all_rows = list(rows)
        self._apply()
        if old is not None:
            name = old.get(self.key)
            index = next((i for i, r in enumerate(self.rows) if r.get(self.key) == name), None)
            self.cursor = index if index is not None else min(self.cursor, len(self.rows) - 1)
        self.cursor = max(0, self.cursor)
        if first or len(before) != len(self.rows):
            self._arrange()
        else:
            for index, (then, now) in enumerate(zip(before, self.rows, strict=True)):
                if then is not now and then != now:
                    self._repaint(index)
        if self.row != old:
            self.post_message(self.Highlighted(self, self.row))

    def shows(self, key: str) -> bool:
        """Return whether there is room for a column."""
        return any(column.key == key for _, column, _ in self._layout)

    def set_filter(self, words: str) -> None:
        """Keep rows that contain all words; `column:word` searches one column."""
        self.words = words.strip()
        row = self.row
        self._apply()
        self.cursor = self.rows.index(row) if row in self.rows else 0
        self._arrange()
        self._show_cursor()
        self.post_message(self.Highlighted(self, self.row))

    def sort_by(self, key: str | None, reverse: bool = False) -> None:
        """Sort rows by a column; rows without a value come last in either order."""
        row = self.row
        self.sort_key, self.reverse = key, reverse
        self._apply()
        self.cursor = self.rows.index(row) if row in self.rows else 0
        self._show_cursor()
        self.refresh()

    def _apply(self) -> None:
        rows = narrowed(self.all_rows, self.words, self.columns) if self.words else self.all_rows
        if self.sort_key is not None:
            rows = ordered(rows, self.sort_key, self.reverse)
        self.rows = list(rows)

    # ------------------------------------------------------------ layout and painting

    def on_resize(self) -> None:
        """Adapt the widths to the terminal; the row with the cursor stays in view."""
        self._arrange()
        self._show_cursor()

    def notify_style_update(self) -> None:
        """Drop cached styles after the theme changed."""
        self._styles.clear()
        super().notify_style_update()

    def _arrange(self) -> None:
        """Compute which columns fit, and their widths."""
        room = max(self.size.width - 1 - (2 if self.marks else 0), 1)
        self._offset, self._layout = laid_out(self.columns, room, self.active, self._offset)
        self.virtual_size = Size(self.size.width - 1, len(self.rows) + self.header_lines)
        self.refresh()

    def style_of(self, role: str) -> Style:
        """Return the terminal style of a role in the current theme."""
        if role not in self._styles:
            self._styles[role] = self.get_component_rich_style(f"listing--{role or 'row'}")
        return self._styles[role]

    def render_line(self, y: int) -> Strip:
        """Render one line of the screen; titles stay on top while rows scroll."""
        width = self.size.width
        if y < self.header_lines:
            return self._header(y, width)
        index = y - self.header_lines + self.scroll_offset.y
        if index >= len(self.rows):
            placeholder = not self.rows and y == self.header_lines + 1
            text = f"  {self.waiting or self.empty}" if placeholder else ""
            return Strip([Segment(set_cell_size(text, width), self.style_of("dim"))], width)
        return self._line(self.rows[index], index == self.cursor, width)

    def _header(self, y: int, width: int) -> Strip:
        style, active = self.style_of("header"), self.style_of("active")
        segments = [Segment("  " if self.marks else "", style)]
        groups = self.header_lines == 2 and y == 0
        previous = ""
        for index, column, size in self._layout:
            title = column.group if groups else column.title
            if groups:
                title, previous = ("" if title == previous else title), title
            else:
                title += self._count() if column.name else ""
                title += ("▼" if self.reverse else "▲") if column.key == self.sort_key else ""
            chosen = index == self.active and self.has_focus and not groups
            text = safe_text(title)
            text = text.rjust(size) if column.right and cell_len(text) <= size else text
            segments.append(Segment(set_cell_size(text, size), active if chosen else style))
            segments.append(Segment(" ", style))
        return Strip(segments).adjust_cell_length(width, style)

    def counted(self) -> Sequence[Row]:
        """Return the rows that the title counts."""
        return self.rows

    def _count(self) -> str:
        if self.waiting:
            return ""
        count, whole = len(self.counted()), len(self.all_rows)
        return f" {count}" + (f" of {whole}" if count < whole else "")

    def _line(self, row: Row, cursor: bool, width: int) -> Strip:
        base = self.style_of("cursor" if cursor else "row")
        segments = []
        if self.marks:
            marked = row.get(self.key) in self.marked
            segments.append(Segment("● " if marked else "  ", self._mix("accent", base, cursor)))
        for _, column, size in self._layout:
            used = 0
            parts = []
            for text, role in self.cell(row, column, size):
                text = safe_text(text.replace("\n", " ").replace("\t", " "), 400)
                if column.name:
                    text = shortened(text, size - used)
                elif used + cell_len(text) > size:
                    text = set_cell_size(text, max(size - used - 1, 0)) + "…"
                parts.append(Segment(text, self._mix(role, base, cursor)))
                used += cell_len(text)
                if used >= size:
                    break
            pad = Segment(" " * (size - used), base)
            segments += [pad, *parts] if column.right else [*parts, pad]
            segments.append(Segment(" ", base))
        return Strip(segments).adjust_cell_length(width, base)

    def _mix(self, role: str, base: Style, cursor: bool) -> Style:
        if not role:
            return base
        style = self.style_of(role)
        if not cursor:
            return base + style
        # The cursor has its own background, on which dim text would not be readable.
        return base if role == "dim" else base + Style(bold=style.bold)

    def _repaint(self, index: int) -> None:
        y = index + self.header_lines - self.scroll_offset.y
        if self.header_lines <= y < self.size.height:
            self.refresh(Region(0, y, self.size.width, 1))

    # ------------------------------------------------------------ keys and mouse

    def move_to(self, index: int) -> None:
        """Move the cursor to a row."""
        index = max(0, min(index, len(self.rows) - 1))
        if index == self.cursor:
            return
        self._repaint(self.cursor)
        self.cursor = index
        self._repaint(index)
        self._show_cursor()
        self.post_message(self.Highlighted(self, self.row))

    def _show_cursor(self) -> None:
        height = max(self.size.height - self.header_lines, 1)
        top = self.scroll_offset.y
        if self.cursor < top:
            self.scroll_to(y=self.cursor, animate=False, immediate=True)
        elif self.cursor >= top + height:
            self.scroll_to(y=self.cursor - height + 1, animate=False, immediate=True)

    def action_move(self, by: int) -> None:
        """Move to the next or previous row."""
        self.move_to(self.cursor + by)

    def action_page(self, by: int) -> None:
        """Move by one page."""
        self.move_to(self.cursor + by * max(self.size.height - self.header_lines - 1, 1))

    def action_edge(self, side: int) -> None:
        """Move to the first or last row."""
        self.move_to(0 if side < 0 else len(self.rows) - 1)

    def action_column(self, by: int) -> None:
        """Choose the column to sort by."""
        indices = [i for i, column in enumerate(self.columns) if column.key != "bar"]
        if not indices:
            return
        current = max((n for n, i in enumerate(indices) if i <= self.active), default=0)
        self.active = indices[max(0, min(current + by, len(indices) - 1))]
        self._arrange()
        self.post_message(self.ColumnChosen(self))

    def action_sort(self) -> None:
        """Sort by the chosen column, best first; again: reverse."""
        if self.columns:
            column = self.columns[self.active]
            again = column.key == self.sort_key
            self.sort_by(column.key, not self.reverse if again else column.falling)

    def check_action(self, action: str, parameters: tuple[object, ...]) -> bool | None:
        """Hide the action in lists whose rows do not open anything."""
        return action != "select" or self.opens

    def action_select(self) -> None:
        """Open the row."""
        if self.row is not None:
            self.post_message(self.Selected(self, self.row))

    def toggle_mark(self) -> None:
        """Mark or unmark the row; the cursor stays, so that what was marked is in view."""
        if self.row is None:
            return
        name = str(self.row.get(self.key))
        if name in self.marked:
            self.marked.remove(name)
        else:
            self.marked.append(name)
        self._repaint(self.cursor)

    def set_marks(self, names: Sequence[str]) -> None:
        """Mark exactly these rows."""
        changed = {*self.marked} ^ {*names}
        self.marked = list(names)
        for index, row in enumerate(self.rows if changed else ()):
            if row.get(self.key) in changed:
                self._repaint(index)

    def on_focus(self) -> None:
        """Repaint: the chosen column shows only while focused."""
        self.refresh()

    def on_blur(self) -> None:
        """Repaint, see `on_focus`."""
        self.refresh()

    def on_click(self, event: events.Click) -> None:
        """Sort by a clicked title, move to a clicked row, or open the current row."""
        if event.y < self.header_lines:
            left = 2 if self.marks else 0
            for index, _, size in self._layout:
                if left <= event.x <= left + size:
                    self.active = index
                    self.post_message(self.ColumnChosen(self))
                    self.action_sort()
                left += size + 1
            return
        index = event.y - self.header_lines + self.scroll_offset.y
        if index >= len(self.rows):
            return
        if index == self.cursor:
            self.action_select()
        self.move_to(index)
