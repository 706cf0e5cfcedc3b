"""Lists with a pane that follows the cursor, and the same details on a screen of their own."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

from textual import on
from textual.binding import Binding, BindingType
from textual.containers import Container
from textual.timer import Timer
from textual.widget import Widget

from kdharness.tui.screens.base import ListPlace, PlaceScreen
from kdharness.tui.viewmodels.rows import Row
from kdharness.tui.widgets.pane import Pane
from kdharness.tui.widgets.table import Listing

if TYPE_CHECKING:
    from kdharness.harness.store import Store
    from kdharness.tui.viewmodels.drawings import Block

WIDE = 110
"""Columns from which a list has a pane."""
DEBOUNCE, REST = 0.1, 4.0
"""Seconds without a key before details are read, so that a held key reads nothing, and between
two reads of the same row, which a live run changes with every step."""


@dataclass(frozen=True)
class Details:
    """What is known of a row: its name, and how to read the rest from the store."""

    key: str
    read: Callable[[Store], list[Block]]


class PanedPlace(ListPlace):
    """A list with a pane of the row under its cursor, where there is room for both."""

    below: ClassVar[bool] = False

    def __init__(self) -> None:
        super().__init__()
        self._pending: Timer | None = None
        self._read_at = 0.0

    def details(self, row: Row) -> Details | None:
        """Return what the pane shows of a row; screens implement it."""
        return None

    def split(self, *widgets: Widget) -> Container:
        """Return the list and what belongs to it, with the pane."""
        inner = Container(*widgets, id="list-box") if len(widgets) > 1 else widgets[0]
        return Container(inner, Pane(), id="split", classes="below" if self.below else "")

    def list_box(self) -> Widget:
        """Return the widget that the filter line stands below."""
        return self.query_one("#split")

    @property
    def has_pane(self) -> bool:
        """Whether there is room for the pane."""
        return self.size.width >= WIDE

    @property
    def may_read(self) -> bool:
        """Whether there is a pane, and nothing more urgent to load."""
        return self.has_pane

    def on_resize(self) -> None:
        """Show the pane where there is room; what it has missed is read then."""
        self.query_one("#split").set_class(self.has_pane, "wide")
        self.fit_list()
        self.follow_cursor()

    def fit_list(self) -> None:
        """Give a list above its pane the rows it needs, up to half of the height."""
        if self.below:
            listing = self.listing()
            height = self.query_one("#split").size.height
            needed = listing.lines + 1
            fitting = min(needed, max(height // 2, 6))
            listing.styles.height = fitting if self.has_pane else "1fr"

    @on(Listing.Highlighted, "#list")
    def _follow(self) -> None:
        self.follow_cursor()

    def follow_cursor(self) -> None:
        """Read the details of the row under the cursor once no key was pressed for a moment."""
        if self._pending is not None:
            self._pending.stop()
        if self.may_read:
            row, shown = self.listing().row, self.query_one("#pane", Pane).key
            same = row is not None and row.get(self.listing().key) == shown
            wait = REST - (time.monotonic() - self._read_at) if same else 0.0
            self._pending = self.set_timer(
                max(wait, DEBOUNCE), lambda: self.while_here(self.read_pane)
            )

    def read_pane(self) -> None:
        """Read the details of the row under the cursor in a thread."""
        row, pane = self.listing().row, self.query_one("#pane", Pane)
        if not self.may_read:
            return
        details = self.details(row) if row is not None else None
        if details is None:
            pane.show("", [])
            return
        self._read_at = time.monotonic()

        def show(blocks: list[Block]) -> None:
            now = self.listing().row
            # The cursor may have moved on; its own details are being read.
            if now is not None and now.get(self.listing().key) == details.key:
                pane.show(details.key, blocks)

        self.read(details.read, show, what="pane")

    def open_details(self, row: Row, then: Callable[[], object]) -> None:
        """Open the details on a screen of their own, from which Enter opens what they are about."""
        details = self.details(row)
        if details is not None:
            self.app.push_screen(DetailsScreen(self, details, then))

    def leave_filter(self) -> bool:
        """Leave the filter, or go back from the pane to the list."""
        if super().leave_filter():
            return True
        if self.query_one("#pane").has_focus:
            self.first().focus()
            return True
        return False


class DetailsScreen(PlaceScreen):
    """The details of one row, for terminals without room for a pane."""

    title_text = "Details"
    about = (
        "The details of the row, which wider terminals show beside the list. {app.back:Esc} goes "
        "back."
    )
    BINDINGS: ClassVar[list[BindingType]] = [
        Binding("enter", "open", "Open", id="details.open", priority=True),
    ]

    def __init__(self, owner: PanedPlace, details: Details, then: Callable[[], object]) -> None:
        super().__init__()
        self.place = owner.place  # type: ignore[misc]
        self.about_row, self.then = details, then

    def body(self) -> Iterable[Widget]:
        """Yield the details."""
        yield Pane()

    def on_mount(self) -> None:
        """Read in a thread."""
        self.seen = self.harness.version
        self.query_one("#pane").focus()
        self.store_changed()

    def store_changed(self) -> None:
        """Read again after the store has changed."""
        pane = self.query_one("#pane", Pane)
        self.read(
            self.about_row.read,
            lambda blocks: pane.show(self.about_row.key, blocks),
            what="details",
        )

    def action_open(self) -> None:
        """Open what the details are about."""
        self.app.pop_screen()
        self.then()
