"""Runs, the home screen: all runs with their live status."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING, Any, ClassVar

from rich.text import Text
from textual import on
from textual._path import CSSPathType
from textual.binding import Binding, BindingType
from textual.widget import Widget
from textual.widgets import Static

from kdharness.harness.types import Method, Run, RunStatus
from kdharness.harness.util.text import DASH, age, clock, figure, safe_text
from kdharness.tui import viewmodels
from kdharness.tui.screens.caring import Caring
from kdharness.tui.screens.grouping import GroupedRuns
from kdharness.tui.screens.panes import Details
from kdharness.tui.screens.welcome import tour_text
from kdharness.tui.viewmodels.marks import bar
from kdharness.tui.viewmodels.rows import (
    STATUS_MARKS,
    Column,
    Part,
    Row,
    annotation_words,
    is_heading,
    reason_of,
)
from kdharness.tui.widgets.grouped import GroupedListing
from kdharness.tui.widgets.table import Listing

if TYPE_CHECKING:
    from kdharness.harness.store import Store
    from kdharness.harness.store.removal import Annotation, Subject
    from kdharness.tui.viewmodels.drawings import Block
    from kdharness.tui.viewmodels.primary import PrimaryScores

COLUMNS = [
    Column("id", "run", 16, grow=2, frozen=True, name=True),
    Column("method", "kind", 4, leave=4),
    Column("models", "models", 12, grow=3, leave=2),
    Column("status", "status", 13),
    Column("progress", "progress", 11, grow=1, falling=True),
    Column("eta", "ETA", 7, right=True, leave=3),
    Column("loss", "loss", 6, right=True),
    Column("when", "when", 6, right=True, falling=True),
]


def _unit(row: Row) -> str:
    """Return the unit of a run's progress."""
    return "runs" if row["method"] == "sweep" else "steps"


class RunsScreen(Caring, GroupedRuns):
    """All runs, newest first."""

    CSS_PATH: ClassVar[CSSPathType | None] = None
    place = "runs"
    shows_machine = True
    title_text = "Runs"
    about = (
        "All training runs and evaluations, newest first; runs started elsewhere appear "
        "automatically. {list.open:Enter} opens a run: its curves, log, config and lineage. "
        "{runs.mark:Space} marks runs: {list.open:Enter} overlays their curves, {app.compare:4} "
        "compares their checkpoints. {runs.stop:X} stops a run, {care.remove:d} deletes it (both "
        "ask); {care.rename:R} renames it, {care.tags:#} tags it, {care.note:N} writes a note. "
        "{runs.experiments:w} goes to experiments: several runs from one file, {app.queue:Q} to "
        "what waits behind the running ones. {runs.group:G} groups the runs by experiment or any "
        "field of their configs; {list.open:Enter} folds a group.\n\n"
        "▶ running  ‖ paused  ◌ starting  ✓ finished  ■ stopped, can be resumed  ✗ failed  ! "
        "interrupted: its process is gone, can be resumed"
    )
    BINDINGS: ClassVar[list[BindingType]] = [
        Binding("n", "new", "New run", id="runs.new"),
        Binding("w", "experiments", "Experiments", id="runs.experiments"),
        Binding("space", "mark", "Mark", id="runs.mark"),
        Binding("p", "pause", "Pause/resume", show=False, id="runs.pause"),
        Binding("X", "stop", "Stop", show=False, id="runs.stop"),
        Binding("v", "evaluate", "Evaluate", show=False, id="runs.evaluate"),
        Binding("D", "demo", "Demo", show=False, id="runs.demo"),
    ]

    def __init__(self) -> None:
        super().__init__()
        self.runs: dict[str, Run] = {}
        self.status: dict[str, RunStatus] = {}
        self.lines: dict[str, dict[str, object]] = {}
        self.notes: dict[Subject, Annotation] = {}
        self.state: tuple[int, int] = (-1, -1)
        self.demo_ran = False
        self.scores: dict[str, dict[str, float]] = {}
        self.led: dict[str, str] = {}
        self.colours: dict[str, str] = {}
        self._shape: tuple[int, str] = (-1, "")

    def body(self) -> Iterable[Widget]:
        """Yield the list, or the tour if there are no runs."""
        listing = GroupedListing(
            COLUMNS, self.cell, id="list", marks=True, empty="no run matches the filter"
        )
        yield self.split(listing)
        yield Static(id="tour")
        yield Static(classes="detail", id="more")

    def on_mount(self) -> None:
        """Show the first page at once; the rest when the store is open."""
        super().on_mount()
        self.seen = self.harness.version
        # Whether live runs still have a process is checked after the first paint.
        self._read(self.harness.first, look=False)

    def _read_all(self) -> None:
        store = self.harness.store
        self.state = store.runs_state()
        self.notes = store.annotations()
        self.runs = {}
        colours = self.harness.run_colours()
        if colours != self.colours:
            self.colours = colours
            self.listing().refresh()
        self._read(store.runs())
        self._read_scores()
        self.follow_cursor()
        if self.harness.group or self.grouped_by:
            self.regroup()

    @property
    def may_read(self) -> bool:
        """Whether there is a pane, and the store is open: the first paint does not wait for it."""
        return self.has_pane and bool(self.harness.version)

    def details(self, row: Row) -> Details:
        """Return the curves, scores, changed settings and last log lines of a run."""
        name, paths = str(row["id"]), self.harness.paths
        around = self.harness.around(self.query_one("#pane").size.height)

        if is_heading(row):
            title, members = str(row["heading"]), list(row["members"])
            return Details(
                name, lambda store: viewmodels.group_overview(store, title, members, around)
            )

        def read(store: Store) -> list[Block]:
            run = store.run(name)
            return viewmodels.run_overview(store, paths, run, around) if run is not None else []

        return Details(name, read)

    def _read_scores(self) -> None:
        """Read the primary metrics of all checkpoints in a thread, if any were chosen."""
        primary, paths = dict(self.harness.primary), self.harness.paths
        self.led = primary
        if not primary:
            return

        def work(store: Store) -> PrimaryScores:
            from kdharness.tui.viewmodels.primary import primary_scores

            return primary_scores(store, paths, primary)

        def show(found: PrimaryScores) -> None:
            self.scores = found.scores
            self.listing().set_columns([*COLUMNS[:-1], *found.columns, COLUMNS[-1]])

        self.read(work, show, what="scores")

    def on_screen_resume(self) -> None:
        """Show metrics that were chosen on another screen."""
        super().on_screen_resume()
        if self.led != self.harness.primary:
            self.while_here(self._read_scores)

    def _read(self, runs: list[Run], *, look: bool = True) -> None:
        """Add or update rows from the store; new ones go on top."""
        fresh = {run.id: run for run in runs if run.id not in self.runs}
        self.runs = {**fresh, **self.runs}
        self.runs |= {run.id: run for run in runs}
        if look:
            self._judge_status(runs)
        self._rebuild_lines(runs)
        self._show()

    def _rebuild_lines(self, runs: Iterable[Run]) -> None:
        """Rebuild the lines of these runs only."""
        from kdharness.harness.runs.summary import run_line

        now = self.harness.now()
        for run in runs:
            note = self.notes.get(("run", run.id))
            found = {"tags": " ".join(note.tags), "note": note.note} if note else {}
            self.lines[run.id] = run_line(run, now, self.status.get(run.id)) | found

    def _judge_status(self, runs: Iterable[Run]) -> bool:
        """Check whether live runs still have a process; return whether a status changed."""
        from kdharness.harness.runs.status import effective_status

        before = dict(self.status)
        for run in runs:
            status = run.status
            if status.is_live:
                status = effective_status(run)
            self.status[run.id] = status
        return self.status != before

    def live(self) -> list[Run]:
        """Return the runs that have a process, as far as known."""
        return [run for run in self.runs.values() if run.status.is_live]

    def _show(self) -> None:
        listing = self.listing()
        listing.set_rows([self.lines[name] for name in self.runs])
        listing.set_marks(self._marks() if self.harness.selection.names else [])
        empty = not self.runs
        self.query_one("#split").display = not empty
        self._tell(listing.row)
        tour = self.query_one("#tour", Static)
        tour.display = empty
        if empty:
            app = self.harness
            tour.update(tour_text(app.paths, self.size.width, app.demo_lines(), app.with_keys))

    def store_changed(self) -> None:
        """Read live runs again, or all runs if one was added."""
        if self.harness.store.runs_state() != self.state:
            self._read_all()
            return
        live = self.harness.store.live_runs(run.id for run in self.live())
        self._read(live)
        row = self.listing().row
        if row is not None and row["id"] in {run.id for run in live}:
            self.follow_cursor()

    def _follow_demo(self) -> None:
        """Show the demo's output, and what to do when it has ended."""
        lines, running = self.harness.demo_lines(), self.harness.demo_is_running
        if lines and not self.runs:
            self._show()
        if self.demo_ran and not running and lines:
            self.notify(f"demo: {safe_text(lines[-1], 300)}", timeout=15, markup=False)
        if running and self.runs:
            self._tell(self.listing().row)
        self.demo_ran = running

    def tick(self) -> None:
        """Check for processes that died, and update the ages."""
        self._follow_demo()
        live = self.live()
        if self._judge_status(live):
            self._rebuild_lines(live)
            self._show()
        elif self.harness.minute_passed():
            self.listing().refresh()

    # ------------------------------------------------------------ cells

    def cell(self, row: Row, column: Column, width: int) -> list[Part]:
        """Return the parts of one cell."""
        key, status = column.key, str(row["status"])
        if key == "status":
            mark, role = STATUS_MARKS[status]
            return [(f"{mark} {status}", role)]
        if key == "progress":
            return self._progress(row, status, width)
        if key == "eta":
            return [(clock(row["eta"]), "")]
        if key == "loss":
            return [(figure(row["loss"]), "" if row["loss"] is not None else "dim")]
        if key in self.led:
            scores = self.scores.get(str(row["checkpoint"]), {})
            return [(figure(scores.get(key)), "")]
        if key == "when":
            return [(age(self.harness.now() - row["when"]), "dim")]
        text = str(row.get(key) or DASH)
        if key == "id":
            # The colour of the run's curves; runs without curves have none.
            return [
                ("▍", self.colours.get(text, "")) if text in self.colours else (" ", ""),
                (text, "strong"),
            ]
        return [(text, "dim" if key == "method" else "")]

    def _progress(self, row: Row, status: str, width: int) -> list[Part]:
        if status == "failed":
            return [(reason_of(str(row["error"]), width) or "failed", "bad")]
        if not row["max_steps"]:
            return [(str(row["stage"]) or DASH, "dim")]
        share = f"{row['progress']:4.0%} "
        if status == "finished":
            return [(f"{row['step']} {_unit(row)}", "dim")]
        # Without room for the column of ETAs they stand here.
        left = "" if self.listing().shows("eta") else clock(row["eta"])
        left = f" {left}" if left else ""
        size = width - len(share) - len(left)
        return [(share, ""), (bar(row["progress"], size), STATUS_MARKS[status][1]), (left, "")]

    def _tell(self, row: Row | None) -> None:
        """Show a line about the run under the cursor: its error, or its progress."""
        more = self.query_one("#more", Static)
        more.display = row is not None and not is_heading(row)
        if row is None or is_heading(row):
            return
        text = Text(no_wrap=not row["error"], overflow="ellipsis")
        if note := annotation_words(self.notes.get(("run", str(row["id"])))):
            text.append(f"{safe_text(note, 200)}\n")
        if row["error"]:
            text.append(safe_text(str(row["error"]), 400), self.listing().style_of("bad"))
        else:
            parts = [row["stage"] or row["method"], row["models"]]
            count = f"{_unit(row)[:-1]} {row['step']} of {row['max_steps']}"
            parts += [count] if row["max_steps"] else []
            text.append(safe_text(" · ".join(filter(None, parts)), 400))
        if self.harness.demo_is_running:
            text.append(f"\ndemo: {safe_text(self.harness.demo_lines()[-1], 200)}")
        # The lines it takes; a new layout each second would be most of what the app at rest does.
        shape = text.plain.count("\n"), text.plain if row["error"] else ""
        more.update(text, layout=shape != self._shape)
        self._shape = shape

    @on(Listing.Highlighted, "#list")
    def _moved(self, event: Listing.Highlighted) -> None:
        self._tell(event.row)

    # ------------------------------------------------------------ actions

    @on(Listing.Selected, "#list")
    def _open(self, event: Listing.Selected) -> None:
        if event.row is not None:
            self.harness.open_run(str(event.row["id"]))

    def action_mark(self) -> None:
        """Mark the run's checkpoint for comparison, or the run until it has one."""
        run = self.chosen()
        if run is None:
            return
        if run.method in (Method.EVAL, Method.SWEEP):
            self.notify(
                f"{run.id} makes no checkpoint: mark the runs it is about",
                severity="warning",
                markup=False,
            )
            return
        selected = self.harness.selection.names
        self.harness.toggle_selected(run.id if run.id in selected else run.checkpoint or run.id)

    def selection_changed(self) -> None:
        """Mark the runs of what is selected."""
        self.listing().set_marks(self._marks())

    def _marks(self) -> list[str]:
        names = {*self.harness.selection.names}
        return [run.id for run in self.runs.values() if {run.id, run.checkpoint} & names]

    def action_new(self) -> None:
        """Open the form of a new run."""
        self.harness.open_new()

    async def action_experiments(self) -> None:
        """Open the experiments."""
        await self.harness.action_go("experiments")

    def chosen(self) -> Run | None:
        """Return the run under the cursor."""
        row = self.listing().row
        return self.runs.get(str(row["id"])) if row else None

    def subject(self) -> str:
        """Return the run under the cursor."""
        run = self.chosen()
        return run.id if run else ""

    def action_pause(self) -> None:
        """Pause or resume the run."""
        self._with_run(self.harness.pause_or_resume)

    def action_stop(self) -> None:
        """Stop the run with a checkpoint, after confirmation."""
        self._with_run(self.harness.stop_run)

    async def action_evaluate(self) -> None:
        """Evaluate the run's checkpoint."""
        if (run := self.chosen()) is not None:
            await self.harness.evaluate_run(run)

    def action_demo(self) -> None:
        """Ask to run the demo on this machine."""
        self.harness.ask_to_start_demo()

    def _with_run(self, do: Any) -> None:
        run = self.chosen()
        if run is not None:
            do(run.id)
