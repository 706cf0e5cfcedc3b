"""The queue: what runs, what follows in an experiment, and what waits behind it."""

from __future__ import annotations

from collections.abc import Iterable
from typing import ClassVar

from textual import on
from textual.binding import Binding, BindingType
from textual.widget import Widget
from textual.widgets import Static

from kdharness.harness.experiments.turns import queue_rows
from kdharness.harness.runs import queue
from kdharness.harness.store import Store
from kdharness.harness.util.text import clock, safe_text
from kdharness.tui.screens.base import ListPlace
from kdharness.tui.screens.caring import Caring
from kdharness.tui.viewmodels.rows import STATUS_MARKS, Column, Part, Row
from kdharness.tui.widgets.table import Listing

COLUMNS = [
    Column("id", "run", 16, grow=2, name=True),
    Column("state", "state", 13),
    Column("method", "kind", 5, leave=1),
    Column("models", "models", 12, grow=3, leave=2),
    Column("eta", "ETA", 7, right=True),
]


class QueueScreen(Caring, ListPlace):
    """Runs in the order in which they take their turn."""

    place = "queue"
    title_text = "Queue"
    shows_machine = True
    about = (
        "What runs now, the runs that follow in its experiment, and the runs that wait until "
        "nothing else runs. {dialog.queue:b} in the question before a start puts a run here, "
        "{queue.add:a} adds stopped ones. {queue.later:J} and {queue.sooner:K} move a waiting run "
        "down and up, {queue.leave:u} takes it out of the queue: it stays as a stopped run. The "
        "queue goes on when the app is closed."
    )
    BINDINGS: ClassVar[list[BindingType]] = [
        Binding("J,shift+down", "shift(1)", "Later", id="queue.later"),
        Binding("K,shift+up", "shift(-1)", "Sooner", id="queue.sooner"),
        Binding("u", "leave", "Out of the queue", id="queue.leave"),
        Binding("a", "add", "Add a stopped run", id="queue.add"),
    ]

    def body(self) -> Iterable[Widget]:
        """Yield the list and a line about it."""
        yield Listing(COLUMNS, self.cell, id="list", empty="nothing runs and nothing waits")
        yield Static(classes="detail", id="more")

    def on_mount(self) -> None:
        """Show what is stored."""
        super().on_mount()
        self.seen = self.harness.version
        self.store_changed()

    def store_changed(self) -> None:
        """Read again what waits."""
        paths, now = self.harness.paths, self.harness.now()
        demo = self.harness.demo_is_running

        def work(store: Store) -> list[dict[str, object]]:
            return queue_rows(store, paths, now, demo=demo)

        self.read(work, self._show)

    def _show(self, rows: list[dict[str, object]]) -> None:
        self.listing().set_rows(rows)
        counts = [sum(row["part"] == part for row in rows) for part in ("now", "next", "queued")]
        words = ("running", "next in an experiment", "queued")
        text = ", ".join(f"{count} {word}" for count, word in zip(counts, words, strict=True))
        self.query_one("#more", Static).update(text)

    def cell(self, row: Row, column: Column, width: int) -> list[Part]:
        """Return the parts of one cell."""
        if column.key == "state":
            mark, role = STATUS_MARKS.get(str(row["state"]), ("·", "dim"))
            return [(f"{mark} {row['state']}", role)]
        if column.key == "eta":
            return [(clock(row["eta"]) if row["part"] == "now" else "", "")]
        role = "strong" if column.key == "id" and row["part"] != "next" else "dim"
        return [(safe_text(str(row[column.key] or "")), role)]

    def subject(self) -> str:
        """Return the run under the cursor, if it is stored."""
        row = self.listing().row
        return str(row["id"]) if row and row["part"] != "next" else ""

    @on(Listing.Selected, "#list")
    def _open(self, event: Listing.Selected) -> None:
        if name := self.subject():
            self.harness.open_run(name)
        elif event.row is not None:
            text = "not started yet: its experiment starts it ({runs.experiments:w} on Runs)"
            self.harness.tell(self.harness.with_keys(text))

    def _queued(self) -> str:
        """Return the waiting run under the cursor, or say why there is none."""
        row = self.listing().row
        if row is not None and row["part"] == "queued":
            return str(row["id"])
        self.notify("not in the queue", timeout=3, markup=False)
        return ""

    def action_shift(self, by: int) -> None:
        """Let the run take its turn one place later or sooner."""
        if name := self._queued():
            queue.move(self.harness.paths, name, by)
            self.store_changed()

    def action_leave(self) -> None:
        """Take the run out of the queue; it stays as a stopped run."""
        if name := self._queued():
            queue.leave(self.harness.store, name)
            start = self.harness.with_keys("{runs.pause:p} on Runs starts it")
            self.harness.tell(f"{name} is out of the queue; {start}")
            self.store_changed()

    def action_add(self) -> None:
        """Let stopped, interrupted or failed runs wait behind the others."""
        self.harness.choose_runs(self.harness.enqueue, only=queue.WAITING)
