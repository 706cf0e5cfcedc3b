"""Dialogs: a question, a text input, a list to choose from, a file picker."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import ClassVar

from rich.markup import escape
from rich.text import Text
from textual import on
from textual.app import ComposeResult
from textual.binding import Binding, BindingType
from textual.containers import Vertical
from textual.widgets import Input, Static

from kdharness.harness.util.filesystem import exists, local_path
from kdharness.harness.util.text import safe_text
from kdharness.tui.screens.modal import Dialog, Modal, clickable_key
from kdharness.tui.viewmodels.rows import CellOf, Column, Part, Row, plain_cell
from kdharness.tui.widgets.filter_line import FilterLine
from kdharness.tui.widgets.table import Listing


class Confirm(Dialog[bool]):
    """Yes or no; Enter does nothing, so that nothing is stopped by accident."""

    BINDINGS: ClassVar[list[BindingType]] = [
        Binding("y", "answer(True)", "Yes", id="dialog.yes"),
        Binding("n,escape,q", "answer(False)", "No", id="dialog.no"),
        Binding("b", "queue", "Behind what runs", id="dialog.queue"),
    ]
    LEAVE = "answer(False)"

    def __init__(
        self, question: str, detail: str = "", *, waits: bool = False, can_wait: bool = False
    ) -> None:
        """Create the dialog.

        Args:
            question: its title.
            detail: what is known about it.
            waits: `tell` follows; until then a yes is only noted.
            can_wait: something runs that it can wait for; `later` tells whether it is to.
        """
        super().__init__()
        self.question, self.detail = question, detail
        self.waits, self.stops, self.noted = waits, False, False
        self.can_wait, self.later = can_wait, False

    def compose(self) -> ComposeResult:
        """Yield the question and the details."""
        with Vertical(classes="dialog"):
            yield Static(Text(safe_text(self.question, 400), "bold"))
            yield Static(Text(safe_text(self.detail, 4000)), id="detail")
            yield Static(self._answers(), id="answers-line")

    def _answers(self) -> Text:
        text = Text("\n")
        if self.stops:
            text.append("fix what is marked ✗ first   ")
        else:
            text.append(
                clickable_key(
                    self.with_keys("{dialog.yes:y}"),
                    "yes, when this is ready" if self.noted else "yes",
                    "answer(True)",
                )
            )
            text.append("   ")
        no = self.with_keys("{dialog.no:n}")
        text.append(clickable_key(no, "back" if self.stops else "no", "answer(False)"))
        if self.can_wait:
            text.append("   ")
            text.append(
                clickable_key(
                    self.with_keys("{dialog.queue:b}"),
                    "behind what runs: it is checked when its turn comes",
                    "queue",
                )
            )
        return text

    def tell(self, detail: str, *, stops: bool = False) -> None:
        """Replace the details while the dialog is open; `stops` leaves no as the only answer."""
        self.detail, self.stops, self.waits = detail, stops, False
        if not self.is_attached:
            return
        if self.noted and not stops:
            self.dismiss(True)
            return
        self.query_one("#detail", Static).update(Text(safe_text(detail, 4000)))
        self.query_one("#answers-line", Static).update(self._answers())

    def action_answer(self, yes: bool) -> None:
        """Close the dialog with the answer; a yes waits for the details, and ends at an error."""
        if not yes or not (self.waits or self.stops):
            self.dismiss(yes)
        elif self.waits:
            self.noted = True
            self.query_one("#answers-line", Static).update(self._answers())
        else:
            self.notify("it would fail: fix what is marked ✗ first", severity="warning")

    def action_queue(self) -> None:
        """Close the dialog: it is to wait for what runs, which may make what it needs."""
        if self.can_wait:
            self.later = True
            self.dismiss(False)


class Ask(Modal[str | None]):
    """A text input; `check` returns what is wrong with the text, while typing."""

    BINDINGS: ClassVar[list[BindingType]] = [
        Binding("escape", "dismiss(None)", "Cancel", id="dialog.cancel"),
    ]

    def __init__(
        self,
        title: str,
        value: str = "",
        help_text: str = "",
        check: Callable[[str], str] = lambda _: "",
    ) -> None:
        super().__init__()
        self.heading, self.value, self.help_text, self.check = title, value, help_text, check

    def compose(self) -> ComposeResult:
        """Yield title, help, the input, and its error."""
        with Vertical(classes="dialog") as frame:
            frame.border_title = escape(safe_text(self.heading, 60))
            frame.border_subtitle = self.with_keys("Enter confirm · {dialog.cancel:Esc} cancel")
            if self.help_text:
                yield Static(Text(safe_text(self.help_text, 1000)))
            yield Input(self.value, id="line")
            yield Static(id="wrong")

    def on_mount(self) -> None:
        """Focus the input."""
        self.query_one("#line", Input).focus()

    @on(Input.Changed)
    def _look(self, event: Input.Changed) -> None:
        self.query_one("#wrong", Static).update(Text(safe_text(self.check(event.value), 400)))

    @on(Input.Submitted)
    def _take(self, event: Input.Submitted) -> None:
        if not self.check(event.value):
            self.dismiss(event.value)


class Choose(Dialog[list[str] | None]):
    """Choose one row of a list, or several marked with space; `/` filters it."""

    BINDINGS: ClassVar[list[BindingType]] = [
        Binding("escape,q", "close", "Cancel", id="dialog.cancel"),
        Binding("space", "mark", "Mark", id="dialog.mark"),
        Binding("slash", "filter", "Filter", key_display="/", id="dialog.filter"),
        Binding("a", "other", "Type another", id="dialog.other"),
    ]

    def __init__(
        self,
        title: str,
        rows: Sequence[Row],
        columns: Sequence[Column],
        *,
        many: bool = False,
        marked: Sequence[str] = (),
        cell: CellOf = plain_cell,
        other: str = "",
        current: str = "",
        narrow: bool = False,
    ) -> None:
        super().__init__()
        self.narrow = narrow
        self.heading, self.rows, self.columns = title, list(rows), list(columns)
        self.many, self.marked, self.cell, self.other = many, list(marked), cell, other
        self.current = current

    def compose(self) -> ComposeResult:
        """Yield the list in a frame."""
        with Vertical(classes="dialog list") as frame:
            frame.border_title = escape(safe_text(self.heading, 60))
            keys = "{dialog.mark:Space} mark · " if self.many else ""
            keys += "{dialog.other:a} type another · " if self.other else ""
            keys += (
                "{list.open:Enter} select · {dialog.filter:/} filter · {dialog.cancel:Esc} cancel"
            )
            frame.border_subtitle = self.with_keys(keys)
            listing = Listing(self.columns, self.cell, id="choices", marks=self.many)
            yield listing
            line = FilterLine(listing, "filter", "narrow")
            line.display = False
            yield line

    def on_mount(self) -> None:
        """Fill the list, with the cursor on the current choice."""
        listing = self.query_one(Listing)
        listing.marked = list(self.marked)
        listing.styles.height = min(len(self.rows), 15) + 1 or 3
        listing.set_rows(self.rows)
        names = [str(row.get(listing.key)) for row in listing.rows]
        if self.current in names:
            listing.move_to(names.index(self.current))
        if self.narrow:
            self.action_filter()
        else:
            listing.focus()

    @on(Listing.Selected)
    def _take(self, event: Listing.Selected) -> None:
        listing = event.listing
        if self.many and listing.marked:
            self.dismiss(list(listing.marked))
        elif event.row is not None:
            self.dismiss([str(event.row[listing.key])])

    def action_mark(self) -> None:
        """Mark the row, if several may be chosen."""
        if self.many:
            self.query_one(Listing).toggle_mark()

    def action_filter(self) -> None:
        """Open the filter line."""
        line = self.query_one("#narrow", Input)
        line.display = True
        line.focus()

    def action_close(self) -> None:
        """Close the dialog."""
        self.dismiss(None)

    def action_other(self) -> None:
        """Type something that is not in the list."""
        if not self.other:
            return

        def take(text: str | None) -> None:
            if text:
                marked = self.query_one(Listing).marked if self.many else []
                self.dismiss([*marked, text])

        self.app.push_screen(Ask(self.heading, help_text=self.other), take)

    @on(Input.Changed)
    def _narrow(self, event: Input.Changed) -> None:
        self.query_one(Listing).set_filter(event.value)

    @on(Input.Submitted)
    def _narrowed(self) -> None:
        """Take the row; where several can be marked, go back to the list to mark them."""
        listing = self.query_one(Listing)
        if self.many:
            listing.focus()
        else:
            listing.action_select()


FILE_COLUMNS = [Column("name", "name", 20, grow=1), Column("size", "size", 9, right=True)]


class PickFile(Dialog[str | None]):
    """Pick a file or folder: browse with the arrows, or type a path."""

    BINDINGS: ClassVar[list[BindingType]] = [
        Binding("escape", "dismiss(None)", "Cancel", id="dialog.cancel"),
        Binding("left,backspace", "up", "Parent folder", id="dialog.up"),
        Binding("slash", "type", "Type a path", key_display="/", id="dialog.type"),
        Binding("space", "take", "Select", id="dialog.take"),
    ]

    def __init__(self, title: str, start: str = "", suffixes: Sequence[str] = ()) -> None:
        super().__init__()
        self.heading, self.suffixes = title, tuple(suffixes)
        path = local_path(start) if start else Path.cwd()
        while not exists(path, folder=True) and path != path.parent:
            path = path.parent
        self.folder = path.resolve()

    def compose(self) -> ComposeResult:
        """Yield the folder's entries, and an input for a path."""
        with Vertical(classes="dialog list") as frame:
            frame.border_title = escape(safe_text(self.heading, 60))
            frame.border_subtitle = self.with_keys(
                "{list.open:Enter} open · {dialog.take:Space} select folder · "
                "{dialog.up:←} parent · {dialog.type:/} type a path · {dialog.cancel:Esc} cancel"
            )
            yield Static(id="where")
            yield Files(FILE_COLUMNS, _file_cell, key="name", empty="no files here")
            line = Input(placeholder="path", id="path")
            line.display = False
            yield line

    def on_mount(self) -> None:
        """Show the first folder."""
        listing = self.query_one(Files)
        listing.styles.height = 14
        self._show()
        listing.focus()

    def _show(self, cursor: str = "") -> None:
        rows: list[dict[str, object]] = []
        try:
            entries = sorted(self.folder.iterdir(), key=lambda p: (p.is_file(), p.name.casefold()))
        except OSError as error:
            self.notify(f"{self.folder}: {error.strerror}", severity="warning", markup=False)
            entries = []
        for entry in entries[:5000]:
            if entry.name.startswith("."):
                continue
            folder = entry.is_dir()
            if not folder and self.suffixes and entry.suffix not in self.suffixes:
                continue
            size = None if folder else entry.stat().st_size if entry.exists() else 0
            rows.append({"name": entry.name, "folder": folder, "size": size})
        self.query_one("#where", Static).update(Text(safe_text(str(self.folder), 300), "bold"))
        listing = self.query_one(Files)
        listing.cursor = 0
        listing.set_rows(rows)
        names = [row["name"] for row in rows]
        listing.move_to(names.index(cursor) if cursor in names else 0)

    @on(Listing.Selected)
    def _enter(self, event: Listing.Selected) -> None:
        if event.row is None:
            return
        path = self.folder / str(event.row["name"])
        if event.row["folder"]:
            self.folder = path
            self._show()
        else:
            self.dismiss(str(path))

    def action_up(self) -> None:
        """Go to the parent folder."""
        name = self.folder.name
        self.folder = self.folder.parent
        self._show(name)

    def action_take(self) -> None:
        """Select the file or folder under the cursor."""
        row = self.query_one(Files).row
        self.dismiss(str(self.folder / str(row["name"]) if row else self.folder))

    def action_type(self) -> None:
        """Open the input for a path."""
        line = self.query_one("#path", Input)
        line.display = True
        line.value = f"{self.folder}/"
        line.focus()

    @on(Input.Submitted)
    def _typed(self, event: Input.Submitted) -> None:
        path = local_path(event.value)
        if exists(path, folder=True):
            self.folder = path.resolve()
            event.input.display = False
            self._show()
            self.query_one(Files).focus()
        elif event.value:
            self.dismiss(str(path))


class Files(Listing):
    """A listing whose left arrow goes to the parent folder."""

    BINDINGS: ClassVar[list[BindingType]] = [
        Binding("left", "screen.up", "Parent folder", show=False, id="files.up"),
        Binding("right", "select", "Open", show=False, id="files.open"),
    ]


def _file_cell(row: Row, column: Column, width: int) -> list[Part]:
    if column.key == "size":
        return [("" if row["size"] is None else size_text(row["size"]), "dim")]
    name = str(row["name"])
    return [(f"{name}/", "accent")] if row["folder"] else [(name, "")]


def size_text(count: float) -> str:
    """Format a number of bytes: `12 kB`, `3.4 GB`."""
    for unit in ("B", "kB", "MB"):
        if count < 1000:
            return f"{count:.0f} {unit}"
        count /= 1000
    return f"{count:.1f} GB"
