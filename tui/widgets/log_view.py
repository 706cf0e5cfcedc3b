"""A run's log: one timeline with levels, and a search that keeps the lines around its matches."""

from __future__ import annotations

from collections.abc import Sequence
from typing import ClassVar, cast

from rich.text import Text
from textual import on
from textual.app import ComposeResult
from textual.binding import Binding, BindingType
from textual.containers import Vertical
from textual.widgets import Input, Static

from kdharness.harness.paths import Paths
from kdharness.harness.store import Store
from kdharness.harness.util.text import safe_text
from kdharness.tui.keys import NamesKeys
from kdharness.tui.viewmodels.log import LEVELS, SHOWN, LogFile, LogLine, found_parts, matches
from kdharness.tui.widgets.text_view import TextView

WORDS = {
    "log": "without metrics",
    "all": "everything",
    "events": "events",
    "problems": "warnings and errors",
}


class LogText(TextView):
    """The lines; its keys are those of the pane around it."""

    COMPONENT_CLASSES: ClassVar[set[str]] = {"lines--found", "lines--here"}
    BINDINGS: ClassVar[list[BindingType]] = [
        Binding("slash", "pane('search')", "Search", key_display="/", id="log.search"),
        Binding("n", "pane('next')", "Next match", show=False, id="log.next"),
        Binding("N", "pane('previous')", "Previous match", show=False, id="log.previous"),
        Binding("escape", "pane('clear')", "End the search", show=False, id="log.clear"),
        Binding("l", "pane('level')", "Level", id="log.level"),
    ]

    def __init__(self, pane: LogPane) -> None:
        super().__init__(follow=True)
        self.pane = pane

    def check_action(self, action: str, parameters: tuple[object, ...]) -> bool | None:
        """Leave n, N and Esc to the screen unless something is searched for."""
        searching = ("next", "previous", "clear")
        return not (parameters and parameters[0] in searching) or bool(self.pane.words)

    def action_pane(self, what: str) -> None:
        """Search, go to a match, or choose which lines are shown."""
        {
            "search": self.pane.search,
            "next": lambda: self.pane.jump(1),
            "previous": lambda: self.pane.jump(-1),
            "clear": lambda: self.pane.look_for(""),
            "level": self.pane.next_level,
        }[what]()


class SearchLine(Input):
    """What is searched for; Esc leaves it."""

    BINDINGS: ClassVar[list[BindingType]] = [
        Binding("escape", "leave", "Cancel", id="log.cancel"),
    ]

    def action_leave(self) -> None:
        """Go back to the log; what was found before stays."""
        self.display = False
        self.screen.query_one(LogText).focus()


class LogPane(Vertical):
    """The log with a line on what is shown of it."""

    DEFAULT_CSS = """
    LogPane { height: 1fr; }
    LogPane Input { height: 1; border: none; padding: 0 1; }
    LogPane Input:focus { border: none; }
    """

    def __init__(self, id: str) -> None:
        super().__init__(id=id)
        self.file = LogFile()
        self.every: Sequence[LogLine] = ()
        self.lines: list[LogLine] = []
        self.level = LEVELS[0]
        self.words = ""
        self.found: list[int] = []
        self.here = -1

    def compose(self) -> ComposeResult:
        """Yield the line above, the text, and the search line."""
        yield Static(classes="line", id="log-state")
        yield LogText(self)
        line = SearchLine(placeholder="search: Enter goes to the next match", id="log-words")
        line.display = False
        yield line

    @property
    def text(self) -> LogText:
        """The widget with the lines."""
        return self.query_one(LogText)

    def focus(self, scroll_visible: bool = True, *, from_app_focus: bool = False) -> LogPane:
        """Focus the text."""
        self.text.focus(scroll_visible)
        return self

    def read(self, store: Store, paths: Paths, run: str) -> None:
        """Show the log of a run, as far as it has been written."""
        self.show(self.file.timeline(store, paths, run))

    def show(self, lines: Sequence[LogLine]) -> None:
        """Show these lines; a match that is gone to stays."""
        if lines != self.every:
            self.every = lines
            self._arrange()

    def _arrange(self) -> None:
        here = self.found[self.here] if 0 <= self.here < len(self.found) else None
        kinds = SHOWN[self.level]
        self.lines = [line for line in self.every if line.kind in kinds]
        self.found = matches(self.lines, self.words)
        self.here = self.found.index(here) if here in self.found else -1
        self._paint()

    def _paint(self) -> None:
        """Show the lines with their matches, and how many there are."""
        marked = set(self.found)
        current = self.found[self.here] if self.here >= 0 else -1
        self.text.set_lines(
            [
                found_parts(line.parts, self.words, "here" if index == current else "found")
                if index in marked
                else line.parts
                for index, line in enumerate(self.lines)
            ]
        )
        hidden = len(self.every) - len(self.lines)
        state = f"{WORDS[self.level]}: {len(self.lines)} lines"
        key = cast("NamesKeys", self.app).with_keys("{log.level:l}")
        state += f", {hidden} hidden ({key})" if hidden else ""
        if self.words:
            count = f"{self.here + 1} of {len(self.found)}" if self.found else "no match"
            state += f"  /{self.words}: {count}"
        self.query_one("#log-state", Static).update(Text(safe_text(state, 300), no_wrap=True))

    def next_level(self) -> None:
        """Show other levels."""
        self.level = LEVELS[(LEVELS.index(self.level) + 1) % len(LEVELS)]
        self.here = -1
        self._arrange()

    # ------------------------------------------------------------ searching

    def search(self) -> None:
        """Open the search line."""
        line = self.query_one(SearchLine)
        line.display = True
        line.value = self.words
        line.focus()

    @on(Input.Submitted, "#log-words")
    def _submitted(self, event: Input.Submitted) -> None:
        event.stop()
        event.input.display = False
        self.text.focus()
        self.look_for(event.value)

    @on(Input.Changed, "#log-words")
    def _typing(self, event: Input.Changed) -> None:
        event.stop()

    def look_for(self, words: str) -> None:
        """Mark what contains a text, and go to the first match from the top of the view on."""
        self.words, self.here = words, -1
        self._arrange()
        self.refresh_bindings()
        if self.found:
            top = self.text.line_at(round(self.text.scroll_y))
            self.here = next((n for n, i in enumerate(self.found) if i >= top), 0)
            self._show_here()

    def jump(self, by: int) -> None:
        """Go to the next or previous match, from the end to the beginning."""
        if self.found:
            self.here = (self.here + by) % len(self.found)
            self._show_here()

    def _show_here(self) -> None:
        self._paint()
        self.text.reveal(self.found[self.here])
