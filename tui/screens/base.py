"""Base classes of screens: the bars, the filter line, and following the store."""

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

from kdharness.harness import store as stores
from kdharness.tui.viewmodels.selection import Selection
from kdharness.tui.widgets.bars import KeyBar, NavBar
from kdharness.tui.widgets.filter_line import FilterLine
from kdharness.tui.widgets.machine_strip import MachineStrip
from kdharness.tui.widgets.table import Listing

if TYPE_CHECKING:
    from textual.widgets import Input

    from kdharness.harness.store import Store
    from kdharness.tui.protocol import AppProtocol
    from kdharness.tui.viewmodels.machine import Machine


class PlaceScreen(Screen[Any]):
    """A screen of the app. `about` is its help text."""

    place: ClassVar[str] = ""
    title_text: ClassVar[str] = ""
    about: ClassVar[str] = ""
    AUTO_FOCUS = None
    CSS_PATH: ClassVar[CSSPathType | None] = "screens.tcss"
    shows_pair: ClassVar[bool] = False
    shows_machine: ClassVar[bool] = False
    seen: int = -1
    followed = Selection()

    @property
    def harness(self) -> AppProtocol:
        """The app, typed as its protocol."""
        return cast("AppProtocol", self.app)

    def compose(self) -> ComposeResult:
        """Yield the bars and the screen's body."""
        yield NavBar(self.place, self.harness.selection)
        yield from self.body()
        if self.shows_machine:
            yield MachineStrip(self._read_machine)
        yield KeyBar()

    def body(self) -> Iterable[Widget]:
        """Return the screen's own widgets."""
        return ()

    def _read_machine(self, show: Callable[[Machine], None]) -> None:
        self.harness.read("machine", self.harness.sampler.read, show)

    def read(
        self, work: Callable[[Store], Any], show: Callable[[Any], Any], *, what: str = ""
    ) -> None:
        """Read from the store in a thread with its own connection, then show the result.

        Args:
            work: reads what is shown.
            show: called with the result, while the screen is there.
            what: a name, if the screen reads several things that do not replace each other.
        """
        path = self.harness.paths.store

        def body() -> Any:
            with stores.Store(path) as store:
                return work(store)

        def done(result: object) -> None:
            # Through the screen's own queue, which starts when it is mounted.
            self.call_later(self.while_here, lambda: show(result))

        self.harness.read(f"{what or self.place}-{id(self)}", body, done)

    def on_screen_resume(self) -> None:
        """Catch up with changes made while another screen was active."""
        if self.seen != self.harness.version:
            self.seen = self.harness.version
            self.while_here(self.store_changed)
        if self.followed != self.harness.selection:
            self.while_here(self.follow_selection)

    def while_here(self, show: Callable[[], object]) -> None:
        """Call `show` unless the screen is not mounted yet or is being closed."""
        if not (self.is_mounted and self.is_attached):
            return
        try:
            show()
        except NoMatches:
            # A screen still receives messages after its widgets were removed.
            if self.is_running and not self._pruning and self.app._exit is False:
                raise

    def follow_selection(self) -> None:
        """Show the selection after it has changed here or on another screen."""
        self.followed = self.harness.selection
        self.query_one(NavBar).show(self.followed)
        self.selection_changed()

    def selection_changed(self) -> None:
        """Show the selection; it is in `harness.selection`."""

    def legend(self) -> Iterable[tuple[str, str]]:
        """Return the symbols of the screen with their meanings, for its help page."""
        return ()

    def has_started(self) -> None:
        """Note that what the screen describes has been started."""

    def plan_told(self, problem: str) -> None:
        """Note what keeps what the screen describes from being started; nothing if it is empty."""

    def leave_filter(self) -> bool:
        """Undo what Escape undoes before it leaves the screen; return whether there was any."""
        return False

    def store_changed(self) -> None:
        """Read again what is shown, after the store has changed."""

    def tick(self) -> None:
        """Update what ages without a write; called about every second while active."""


class ListPlace(PlaceScreen):
    """A screen around one listing, with a filter line and an export."""

    BINDINGS: ClassVar[list[BindingType]] = [
        Binding("slash", "filter", "Filter", key_display="/", id="list.filter"),
        Binding("e", "export", "Export", show=False, id="list.export"),
    ]

    def listing(self) -> Listing:
        """Return the main listing."""
        return self.query_one("#list", Listing)

    def _filter_line(self) -> Input | None:
        lines = self.query("#filter").results(Input)
        return next(iter(lines), None)

    def list_box(self) -> Widget:
        """Return the widget that the filter line stands below."""
        return self.listing()

    def first(self) -> Widget:
        """Return the widget that is focused first."""
        return self.listing()

    def on_mount(self) -> None:
        """Focus the listing."""
        self.first().focus()

    async def action_filter(self) -> None:
        """Open the filter line."""
        line = self._filter_line()
        if line is None:
            words = "filter: words, or column:word; ↑↓ move, {app.back:Esc} clears"
            words = self.harness.with_keys(words)
            line = FilterLine(self.listing(), words, "filter")
            await self.mount(line, after=self.list_box())
        line.display = True
        line.focus()

    def on_input_changed(self, event: Input.Changed) -> None:
        """Filter the list while typing."""
        if event.input.id == "filter":
            self.listing().set_filter(event.value)

    def on_input_submitted(self, event: Input.Submitted) -> None:
        """Keep the filter and return to the list."""
        if event.input.id == "filter":
            event.input.display = bool(event.value)
            self.listing().focus()

    def leave_filter(self) -> bool:
        """Leave the filter line or clear a kept filter; return whether there was one."""
        line = self._filter_line()
        if line is None or not line.display:
            return False
        line.value = ""
        line.display = False
        self.listing().focus()
        return True

    def export_rows(self) -> tuple[str, Sequence[dict[str, Any]], list[str]]:
        """Return a file name's stem, the rows and the columns to export."""
        listing = self.listing()
        columns = [column.key for column in listing.columns if column.key != "bar"]
        return self.place, [dict(row) for row in listing.rows], columns

    def action_export(self) -> None:
        """Write the rows as CSV, JSON or Markdown."""
        self.harness.export_table(*self.export_rows())
