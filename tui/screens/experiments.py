"""Experiments: their questions, their runs, and the status of each run."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

from rich.text import Text
from textual import on
from textual.binding import Binding, BindingType
from textual.widget import Widget
from textual.widgets import Static

from kdharness.harness.runs.status import effective_status
from kdharness.harness.types import RunStatus
from kdharness.harness.util.text import safe_text
from kdharness.tui.screens.dialogs import Confirm, PickFile
from kdharness.tui.screens.experiment_lists import EXPERIMENT_COLUMNS, PLAN_COLUMNS, Sheet
from kdharness.tui.screens.panes import Details, PanedPlace
from kdharness.tui.viewmodels.experiments import (
    MARKS,
    OTHER,
    PlanCache,
    View,
    claim_lines,
    counted,
    file_lines,
    load,
    plan_cell,
    start_words,
)
from kdharness.tui.viewmodels.overview import step_overview
from kdharness.tui.viewmodels.rows import Line, Row
from kdharness.tui.widgets.table import Listing
from kdharness.tui.widgets.text_view import TextView

if TYPE_CHECKING:
    from kdharness.harness.store import Store


class ExperimentsScreen(PanedPlace):
    """The experiment files above, the runs of the chosen one below."""

    place = "experiments"
    title_text = "Experiments"
    about = (
        "An experiment is a file of several runs that depend on each other, over a grid of "
        "settings (kdharness sweep). Above: the built-in ones, those run in this home, and files "
        "opened with {experiments.file:o}. Below: the runs of the chosen one with their status; "
        "if the file is invalid, the file with its errors. {list.open:Enter} goes down to the "
        "runs, and opens one; {app.back:Esc} goes back up. {experiments.start:s} starts or "
        "resumes it in a separate process that outlives the app; finished runs are not repeated. "
        "{experiments.stop:X} stops it: current runs save a checkpoint first. "
        "{experiments.claims:c} shows which claims of the file hold so far."
    )
    BINDINGS: ClassVar[list[BindingType]] = [
        Binding("o", "file", "Open a file", id="experiments.file"),
        Binding("X", "stop", "Stop", id="experiments.stop"),
        Binding("y", "yaml", "YAML", id="experiments.yaml"),
        Binding("c", "claims", "Claims", id="experiments.claims"),
        Binding("p", "pause", "Pause/resume", show=False, id="experiments.pause"),
        Binding("g", "log", "Log", show=False, id="experiments.log"),
        Binding("r", "again", "Reload the files", show=False, id="experiments.again"),
    ]

    def __init__(self) -> None:
        super().__init__()
        self.book = PlanCache()
        self.chosen: Path | None = None
        self.view: View | None = None
        # The page shown instead of the runs: "yaml" or "claims".
        self.page = ""
        self._shown_texts: list[Text] = [Text(), Text()]

    def body(self) -> Iterable[Widget]:
        """Yield both lists, with a line about each, and the file."""
        yield Sheet(EXPERIMENT_COLUMNS, plan_cell, id="experiments")
        yield Static(id="about-experiment", classes="detail")
        yield self.split(Sheet(PLAN_COLUMNS, plan_cell, id="list", empty=""), TextView(id="file"))
        yield Static(id="about-run", classes="line")

    def on_mount(self) -> None:
        """Read the files in a thread."""
        super().on_mount()
        self.query_one("#file").display = False
        self.seen = self.harness.version
        self.look()

    def first(self) -> Widget:
        """Focus the list of experiments first."""
        return self.names()

    def names(self) -> Listing:
        """Return the list of experiments."""
        return self.query_one("#experiments", Listing)

    # ------------------------------------------------------------ reading

    def look(self) -> None:
        """Read files, plan and runs in a thread."""
        book, paths, chosen = self.book, self.harness.paths, self.chosen

        def work(store: Store) -> View:
            return load(book, paths, store, chosen)

        self.read(work, self.show)

    def store_changed(self) -> None:
        """Read again after a run has written."""
        self.look()

    def tick(self) -> None:
        """Check for processes that died without a final write."""
        if self.view is None or not self.view.live:
            return
        shown = {row["id"]: row["status"] for row in self.view.runs}
        if self.view.sweep is not None and self.view.status is not None:
            shown[self.view.sweep.id] = self.view.status.value
        for run in self.view.live:
            if shown.get(run.id) not in (effective_status(run).value, OTHER):
                self.look()
                return

    def show(self, view: View) -> None:
        """Show a view, unless the cursor has moved on and another one is being read."""
        if self.chosen is not None and view.chosen and view.chosen.file != self.chosen:
            files = {row["id"] for row in view.rows}
            if str(self.chosen) in files:
                return
        before, self.view = self.view, view
        self.chosen = view.chosen.file if view.chosen else None
        names = self.names()
        names.styles.height = min(len(view.rows), 6) + 1
        with names.prevent(Listing.Highlighted):
            names.set_rows(view.rows)
            order = [row["id"] for row in view.rows]
            if str(self.chosen) in order:
                names.move_to(order.index(str(self.chosen)))
        self.listing().set_rows(view.runs)
        self.follow_cursor()
        fresh = before is None or before.chosen != view.chosen or before.plan is not view.plan
        if self.page == "claims":
            self._judge()
        elif fresh:
            self._file(view)
        self._panes()
        self._say("#about-experiment", 0, self._about(view))
        self._tell(self.listing().row)

    def _file(self, view: View) -> None:
        lines, first = file_lines(view.plan)
        page = self.query_one("#file", TextView)
        page.set_lines(lines)
        self.call_after_refresh(page.scroll_to, y=max(first - 3, 0), animate=False)

    def _judge(self) -> None:
        """Check the claims against the store in a thread."""
        view = self.view
        if view is None:
            return
        plan = view.plan

        def work(store: Store) -> list[Line]:
            return claim_lines(store, plan)

        def judged(lines: list[Line]) -> None:
            if self.page == "claims" and self.view is not None and self.view.plan is plan:
                self.query_one("#file", TextView).set_lines(lines)

        self.read(work, judged, what="claims")

    def _panes(self) -> None:
        """Show the runs, the requested page, or the file if it is invalid."""
        file = bool(self.page) or (self.view is not None and bool(self.view.plan.wrong))
        page, listing = self.query_one("#file", TextView), self.listing()
        held = page.has_focus or listing.has_focus
        page.display, listing.display = file, not file
        if held:
            (page if file else listing).focus()

    def _say(self, where: str, number: int, text: Text) -> None:
        """Update a text only if it has changed."""
        if text != self._shown_texts[number]:
            self._shown_texts[number] = text
            self.query_one(where, Static).update(text)

    def _about(self, view: View) -> Text:
        style = self.listing().style_of
        text = Text()
        if view.chosen is None:
            return Text(self.harness.with_keys("no experiment: {experiments.file:o} opens a file"))
        text.append(safe_text(view.chosen.name, 60), "bold")
        text.append(safe_text(f"  {view.chosen.question}\n", 400))
        wrong = sum(map(len, view.plan.wrong.values()))
        if wrong:
            text.append("✗ cannot start: fix the fields marked below", style("bad"))
            return text
        text.append(counted(view.runs))
        if view.status is None:
            return text
        mark, role = MARKS[view.status.value]
        text.append(f"  {mark} {view.status.value}", style(role))
        if view.sweep is not None and view.sweep.error:
            text.append(f"\n{safe_text(view.sweep.error, 300)}", style("bad"))
        return text

    def _tell(self, row: Row | None) -> None:
        """Show a line about the run under the cursor."""
        text = Text(no_wrap=True, overflow="ellipsis")
        if row is not None:
            parts = [f"step {row['step_name']}", row["settings"]]
            parts += [f"needs {row['needs']}"] if row["needs"] else []
            if row["status"] == OTHER:
                parts = [
                    "a run of this name has different settings: give the experiment another name"
                ]
            elif row["error"]:
                parts = [str(row["error"])]
            text.append(safe_text(" · ".join(filter(None, parts)).replace("\n", " "), 400))
        self._say("#about-run", 1, text)

    @on(Listing.Highlighted, "#list")
    def _moved(self, event: Listing.Highlighted) -> None:
        self._tell(event.row)

    @on(Listing.Highlighted, "#experiments")
    def _other(self, event: Listing.Highlighted) -> None:
        if event.row is not None and str(event.row["id"]) != str(self.chosen):
            self.choose(Path(str(event.row["id"])))

    def choose(self, file: Path) -> None:
        """Show the plan of this file."""
        self.chosen = file
        self._turn("")
        self.look()

    # ------------------------------------------------------------ navigation

    @on(Listing.Selected, "#experiments")
    def _down(self) -> None:
        (self.query_one("#file") if self.query_one("#file").display else self.listing()).focus()

    def details(self, row: Row) -> Details:
        """Return the state of the step under the cursor."""
        paths, others = self.harness.paths, self.listing().all_rows
        around = self.harness.around(self.query_one("#pane").size.height)
        return Details(
            str(row["id"]), lambda store: step_overview(store, paths, row, others, around)
        )

    @on(Listing.Selected, "#list")
    def _open(self, event: Listing.Selected) -> None:
        row = event.row
        if row is None:
            return
        if not self.has_pane:
            self.open_details(row, lambda: self._open_run(row))
        else:
            self._open_run(row)

    def _open_run(self, row: Row) -> None:
        if row["there"]:
            self.harness.open_run(str(row["id"]))
        else:
            start = self.harness.with_keys("{experiments.start:s} starts the experiment")
            self.harness.tell(f"{row['id']} has not been started: {start}")

    def leave_filter(self) -> bool:
        """Leave the filter, or else go back up to the experiments."""
        if super().leave_filter():
            return True
        if self.names().has_focus:
            return False
        self.names().focus()
        return True

    def export_rows(self) -> tuple[str, Sequence[dict[str, Any]], list[str]]:
        """Return the plan's rows."""
        name = self.view.chosen.name if self.view and self.view.chosen else self.place
        rows = [dict(row) for row in self.listing().rows]
        keys = ["id", "step_name", "settings", "status", "step", "max_steps", "loss", "needs"]
        return Path(name).name, rows, keys

    def _turn(self, page: str) -> None:
        """Show the runs, or a page instead of them."""
        self.page = page
        if self.view is not None and page == "claims":
            self.query_one("#file", TextView).set_lines([[("checking the claims …", "dim")]])
            self._judge()
        elif self.view is not None:
            self._file(self.view)
        self._panes()

    def action_yaml(self) -> None:
        """Toggle between the file and the runs."""
        self._turn("" if self.page == "yaml" else "yaml")

    def action_claims(self) -> None:
        """Toggle between the file's claims and the runs."""
        if self.view is None or not self.view.plan.claims:
            self.harness.tell("this experiment has no claims")
            return
        self._turn("" if self.page == "claims" else "claims")

    def action_again(self) -> None:
        """Reload all files, including those that a plan refers to."""
        self.book.forget()
        self.look()

    def action_file(self) -> None:
        """Open a file and show its plan."""

        def chosen(path: str | None) -> None:
            if path:
                file = Path(path).resolve()
                self.book.opened = [file, *(f for f in self.book.opened if f != file)]
                self.choose(file)

        self.app.push_screen(PickFile("An experiment", suffixes=(".yaml", ".yml")), chosen)

    # ------------------------------------------------------------ starting and stopping

    def action_start(self) -> None:
        """Ask to start the experiment."""
        view = self.view
        if view is None or view.chosen is None:
            return
        if view.plan.wrong:
            self.harness.complain("fix the marked fields first")
            return
        if view.at_work and view.status is not RunStatus.PAUSED:
            self.harness.tell(f"{view.chosen.name} is already running")
            return
        if all(row["status"] == "finished" for row in view.runs):
            self.harness.tell("all runs are finished")
            return
        self.app.push_screen(
            Confirm(f"Start the experiment {view.chosen.name}?", start_words(view)),
            lambda yes: self._start(view) if yes else None,
        )

    def _start(self, view: View) -> None:
        assert view.chosen is not None
        file, paths = view.chosen.file, self.harness.paths

        def work() -> str:
            from kdharness.harness.experiments.detached import start_sweep

            return start_sweep(paths, file).id

        def started(run: str) -> None:
            self.harness.tell(f"{run} has started")
            self.call_later(self.while_here, self.look)

        self.harness.tell("starting …")
        self.harness.in_thread(work, started)

    def _at_work(self) -> str:
        """Return the experiment's own run if it is live, else one of its live runs."""
        if self.view is None:
            return ""
        if self.view.at_work and self.view.sweep is not None:
            return self.view.sweep.id
        live = [
            row["id"]
            for row in self.view.runs
            if row["status"] in ("running", "starting", "paused")
        ]
        return str(live[0]) if live else ""

    def action_stop(self) -> None:
        """Stop the experiment, after confirmation."""
        run = self._at_work()
        if run:
            self.harness.stop_run(run)
        else:
            self.harness.tell("no run of this experiment is running")

    def action_pause(self) -> None:
        """Pause or resume the experiment."""
        run = self._at_work() or (self.view.sweep.id if self.view and self.view.sweep else "")
        if run:
            self.harness.pause_or_resume(run)
        else:
            self.harness.tell(
                self.harness.with_keys("not started yet: {experiments.start:s} starts it")
            )

    def action_log(self) -> None:
        """Open the experiment's own run with its log."""
        if self.view is not None and self.view.sweep is not None:
            self.harness.open_run(self.view.sweep.id)
        else:
            self.harness.tell("not started from the app yet")
