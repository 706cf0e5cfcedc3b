"""What all screens share: the bars, the filter line, and following the store."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import TYPE_CHECKING, Any, ClassVar, cast

from textual._path import CSSPathType
from textual.app import ComposeResult
from textual.binding import Binding, BindingType
from textual.css.query import NoMatches
from textual.screen import Screen
from textual.widget import Widget
from textual.widgets import Input

from kdharness.tui.widgets.bars import KeyBar, NavBar
from kdharness.tui.widgets.table import Listing

if TYPE_CHECKING:
    from textual.widgets import Input

    from kdharness.harness.store import Store
    from kdharness.tui.protocol import AppProtocol


class PlaceScreen(Screen[Any]):
    """A screen of the app. `about` is its page of the help."""

    place: ClassVar[str] = ""
    title_text: ClassVar[str] = ""
    about: ClassVar[str] = ""
    AUTO_FOCUS = None
    CSS_PATH: ClassVar[CSSPathType | None] = "screens.tcss"
    seen: int = -1

    @property
    def harness(self) -> AppProtocol:
        """The app, by its own type."""
        return cast("AppProtocol", self.app)

    def compose(self) -> ComposeResult:
        """The bars around what a screen shows."""
        yield NavBar(self.place)
        yield from self.body()
        yield KeyBar()

    def body(self) -> Iterable[Widget]:
        """The screen's own widgets."""
        return ()

    def read(self, work: Callable[[Store], Any], show: Callable[[Any], Any]) -> None:
        """Read from the store in a thread with a connection of its own, then show it."""
        path = self.harness.paths.store

        def body() -> Any:
            from kdharness.harness.store import Store

            with Store(path) as store:
                return work(store)

        def done(result: Any) -> None:
            # Through the screen's own queue, which starts when it is mounted.
            self.call_later(self.while_here, lambda: show(result))

        self.harness.read(f"{self.place}-{id(self)}", body, done)

    def on_screen_resume(self) -> None:
        """Catch up with what happened while another screen was in front."""
        if self.seen != self.harness.version:
            self.seen = self.harness.version
            self.while_here(self.store_changed)

    def while_here(self, show: Callable[[], Any]) -> None:
        """Change what is shown, unless the screen is not there yet or is being closed."""
        if not (self.is_mounted and self.is_attached):
            return
        try:
            show()
        except NoMatches:
            # Between the end of its widgets and its own, a screen still gets messages.
            if self.is_running and not self._pruning and self.app._exit is False:
                raise

    def leave_filter(self) -> bool:
        """Take back what Escape takes back before it leaves the screen; whether there was any."""
        return False

    def store_changed(self) -> None:
        """The store was written to: read again what is shown."""

    def tick(self) -> None:
        """Called about every second while in front, for what ages without being written."""


class ListPlace(PlaceScreen):
    """A screen around one listing, with a filter line and an export."""

    BINDINGS: ClassVar[list[BindingType]] = [
        Binding("slash", "filter", "Filter", key_display="/", id="list.filter"),
        Binding("e", "export", "Export", show=False, id="list.export"),
    ]

    def listing(self) -> Listing:
        """The main listing."""
        return self.query_one("#list", Listing)

    def _filter_line(self) -> Input | None:
        lines = self.query("#filter").results(Input)
        return next(iter(lines), None)

    def first(self) -> Widget:
        """What keys go to at first."""
        return self.listing()

    def on_mount(self) -> None:
        """Keys go to the listing."""
        self.first().focus()

    async def action_filter(self) -> None:
        """Type words to narrow the list."""
        line = self._filter_line()
        if line is None:
            line = Input(placeholder="filter: words, or column:word; Esc clears", id="filter")
            await self.mount(line, after=self.listing())
        line.display = True
        line.focus()

    def on_input_changed(self, event: Input.Changed) -> None:
        """Narrow the list with every letter."""
        if event.input.id == "filter":
            self.listing().set_filter(event.value)

    def on_input_submitted(self, event: Input.Submitted) -> None:
        """Keep the filter, and go back to the list."""
        if event.input.id == "filter":
            event.input.display = bool(event.value)
            self.listing().focus()

    def leave_filter(self) -> bool:
        """Escape from the filter line, or clear a kept filter; whether there was one."""
        line = self._filter_line()
        if line is None or not line.display:
            return False
        line.value = ""
        line.display = False
        self.listing().focus()
        return True

    def export_rows(self) -> tuple[str, Sequence[dict[str, Any]], list[str]]:
        """A file name's stem, the rows and the columns to export."""
        listing = self.listing()
        columns = [column.key for column in listing.columns if column.key != "bar"]
        return self.place, [dict(row) for row in listing.rows], columns

    def action_export(self) -> None:
        """Write the rows as CSV, JSON or Markdown."""
        self.harness.export_table(*self.export_rows())
