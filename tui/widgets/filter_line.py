"""A filter line: what is typed narrows a list, and the arrows still move in the list."""

from __future__ import annotations

from typing import ClassVar

from textual.binding import Binding, BindingType
from textual.widgets import Input

from kdharness.tui.widgets.table import Listing


class FilterLine(Input):
    """An input above or below a listing of the same screen."""

    BINDINGS: ClassVar[list[BindingType]] = [
        Binding("up", "row(-1)", show=False),
        Binding("down", "row(1)", show=False),
        Binding("pageup", "rows(-1)", show=False),
        Binding("pagedown", "rows(1)", show=False),
    ]

    def __init__(self, listing: Listing, placeholder: str, id: str) -> None:
        super().__init__(placeholder=placeholder, id=id)
        self.listing = listing

    def action_row(self, by: int) -> None:
        """Move to the next or previous row."""
        self.listing.action_move(by)

    def action_rows(self, by: int) -> None:
        """Move by one page."""
        self.listing.action_page(by)
