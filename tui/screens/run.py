"""One run: live curves, log, config, lineage; pause, resume, stop."""

from __future__ import annotations

from collections.abc import Iterable
from typing import ClassVar

from rich.style import Style
from rich.text import Text
from textual import events, on
from textual.binding import Binding, BindingType
from textual.containers import Vertical
from textual.widget import Widget
from textual.widgets import Static

from kdharness.harness.config.summary import models_of
from kdharness.harness.runs.status import effective_status
from kdharness.harness.runs.summary import eta
from kdharness.harness.types import Method, Run, RunStatus
from kdharness.harness.util.text import clock, figure, safe_text
from kdharness.tui import viewmodels
from kdharness.tui.screens.caring import Caring
from kdharness.tui.screens.run_charts import RunCharts
from kdharness.tui.viewmodels.marks import bar
from kdharness.tui.viewmodels.rows import STATUS_MARKS, Column, Part, Row
from kdharness.tui.viewmodels.run import lineage_rows
from kdharness.tui.viewmodels.selection import shortened
from kdharness.tui.widgets.chart_grid import ChartGrid
from kdharness.tui.widgets.log_view import LogPane
from kdharness.tui.widgets.pane import Pane
from kdharness.tui.widgets.table import Listing
from kdharness.tui.widgets.text_view import TextView

TABS = (
    ("c", "curves", "Curves"),
    ("s", "summary", "Summary"),
    ("g", "log", "Log"),
    ("f", "config", "Config"),
    ("i", "lineage", "Lineage"),
)


class RunScreen(Caring, RunCharts):
    """One run, with other runs' curves overlaid."""

    place = "runs"
    shows_machine = True
    title_text = "Run"
    about = (
        "Arrows choose a chart, {charts.zoom:Enter} shows it on the whole screen and "
        "{app.back:Esc} all of them again. The loss has the held-out losses over it: ◆ general, ◇ "
        "domain. {run.zoom-in:+} and {run.zoom-out:-} zoom, {run.earlier:<} and {run.later:>} "
        "pan, {run.whole:0} shows all; {run.axis:a} draws over steps, tokens, FLOPs or minutes "
        "since the start, pauses included; {run.log-scale:y} toggles the log scale, "
        "{run.smooth:m} smoothing; {run.overlay:o} overlays other runs, which are selected on "
        "every screen, each in its own colour. {run.summary:s} sums the run up: curves, scores, "
        "changed settings. {run.pause:p} pauses, or resumes a paused, stopped or interrupted run; "
        "{run.stop:X} stops it after saving a checkpoint. {run.new:n} starts a new run from this "
        "config, {run.evaluate:v} evaluates the checkpoint. Closing the app does not stop the "
        "run."
    )
    BINDINGS: ClassVar[list[BindingType]] = [
        *(
            Binding(key, f"tab('{name}')", title, show=False, id=f"run.{name}")
            for key, name, title in TABS
        ),
        Binding("p", "pause", "Pause/resume", id="run.pause"),
        Binding("X", "stop", "Stop", id="run.stop"),
        Binding("v", "evaluate", "Evaluate", id="run.evaluate"),
        Binding("n", "new", "New from this", show=False, id="run.new"),
        Binding("w", "where", "Copy the folder's path", show=False, id="run.folder"),
    ]

    def __init__(self, run: str) -> None:
        super().__init__(run)
        self.tab = ""

    def body(self) -> Iterable[Widget]:
        """Yield head, tabs and the four pages."""
        yield Static(id="head", classes="head")
        yield Static(id="tabs", classes="line")
        with Vertical(id="curves"):
            yield Static(id="legend", classes="line")
            yield ChartGrid(id="chart")
        yield Pane(id="summary")
        yield LogPane(id="log")
        yield TextView(id="config")
        yield Listing(
            [
                Column("tree", "checkpoint", 30, grow=2),
                Column("method", "kind", 6),
                Column("path", "folder", 10, grow=3, leave=1),
            ],
            self.cell,
            id="lineage",
        )

    def on_mount(self) -> None:
        """Show what is known at once; curves are read in a thread."""
        self.seen = self.harness.version
        self.followed = self.harness.selection
        self.others = self.selected_runs()
        self.reread()
        without = self.run is not None and self.run.method in (Method.EVAL, Method.SWEEP)
        self.action_tab("log" if without else "curves")

    # ------------------------------------------------------------ reading

    def store_changed(self) -> None:
        """Read again after the run or an overlaid one has written."""
        self.reread()

    def tick(self) -> None:
        """Update the status and the ETA."""
        if self.run is not None and self.run.status.is_live:
            self._head()

    def reread(self) -> None:
        """Read the run's row at once, its curves in a thread."""
        before = self.run
        self.run = self.harness.store.run(self.run_id)
        if self.run is None:
            self.query_one("#head", Static).update(Text(f"no run {self.run_id}"))
            return
        if before is not None and self.run.step < before.step:
            self.forget_curves()
        self._head()
        self._fill_tab()
        self.load()

    def show_head(self) -> None:
        """Update status, progress and speed."""
        self._head()

    def style_of(self, role: str) -> Style:
        """Return the style of a role in the current theme."""
        return self.query_one("#lineage", Listing).style_of(role)

    # ------------------------------------------------------------ showing

    def _head(self) -> None:
        run = self.run
        if run is None:
            return

        self.status = effective_status(run)
        mark, role = STATUS_MARKS[self.status.value]
        width = self.size.width - 2
        text = Text(no_wrap=True, overflow="ellipsis")
        text.append(safe_text(run.id), "bold")
        text.append(f"  {mark} {self.status.value}", self.style_of(role))
        text.append(safe_text(f"  {run.method}  {models_of(run.config)}"))
        facts = []
        now = self.harness.now()
        left = eta(run, now) if self.status is RunStatus.RUNNING else None
        if left is not None:
            facts.append(f"ETA {clock(left)}")
        for name, unit in (("tokens_per_second", "tok/s"), ("memory_gb", "GB")):
            value = self.book.last(self.run_id, name)
            if value is not None:
                facts.append(f"{figure(value, 4)} {unit}")
        share = run.step / run.max_steps if run.max_steps else 0.0
        stage = str(run.info.get("stage", ""))
        # The counts matter more than the end of a long stage, and all of it is on one line.
        stage = shortened(stage, max(width // 2, 12))
        steps = f"{stage} {run.step}/{run.max_steps} {share:.0%}" if run.max_steps else stage
        failed = self.book.last(self.run_id, "failed")
        facts += [f"{failed:.0f} failed"] if failed else []
        facts += [f"now {run.info['at_work']}"] if run.info.get("at_work") else []
        tail = shortened("  ".join(facts), max(width // 2, 12))
        room = max(width - len(steps) - len(tail) - 4, 4)
        text.append(f"\n{safe_text(steps)} ")
        text.append(bar(share, min(room, 60)), self.style_of(role))
        text.append(f"  {tail}")
        if run.error:
            text.append(f"\n{safe_text(run.error, 300)}", self.style_of("bad"))
        self.query_one("#head", Static).update(text)

    def _fill_tab(self) -> None:
        run = self.run
        if run is None:
            return
        if self.tab == "log":
            app = self.harness
            self.query_one("#log", LogPane).read(app.store, app.paths, self.run_id)
        elif self.tab == "summary":
            self._sum_up(run)
        elif self.tab == "config":
            from kdharness.harness.util.untrusted import dump_yaml

            text = dump_yaml(run.config)
            self.query_one("#config", TextView).set_text(text)
        elif self.tab == "lineage":
            self.query_one("#lineage", Listing).set_rows(lineage_rows(self.harness.store, run))

    def _sum_up(self, run: Run) -> None:
        """Show what a pane beside the list of runs shows."""
        paths, pane = self.harness.paths, self.query_one("#summary", Pane)
        around = self.harness.around(pane.size.height or self.size.height)
        self.read(
            lambda store: viewmodels.run_overview(store, paths, run, around),
            lambda blocks: pane.show(run.id, blocks),
            what="summary",
        )

    def cell(self, row: Row, column: Column, width: int) -> list[Part]:
        """Return the parts of a cell of the lineage."""
        if column.key == "tree":
            indent = "  " * row["depth"] + ("└ " if row["depth"] else "")
            role = f"{row['role']}: " if row["role"] else ""
            again = " (see above)" if row["again"] else ""
            return [(indent + role, "dim"), (str(row["name"]), "strong"), (again, "dim")]
        role = {"method": "dim", "path": "dim"}.get(column.key, "")
        return [(str(row.get(column.key) or ""), role)]

    # ------------------------------------------------------------ actions

    def action_tab(self, name: str) -> None:
        """Switch to another page of the run."""
        self.tab = name
        line = Text()
        for key, tab, title in TABS:
            line.append(f" {key} ", "bold")
            line.append(title, self.style_of("active") if tab == name else "")
            line.append("  ")
            self.query_one(f"#{tab}").display = tab == name
        self.query_one("#tabs", Static).update(line)
        self._fill_tab()
        self.query_one("#chart" if name == "curves" else f"#{name}").focus()

    @on(events.Click, "#tabs")
    def _tab_clicked(self, event: events.Click) -> None:
        """Switch to the page whose title was clicked."""
        at = event.x - 1
        for key, tab, title in TABS:
            at -= len(key) + len(title) + 4
            if at < 0:
                self.action_tab(tab)
                return

    @on(Listing.Selected, "#lineage")
    def _walk(self, event: Listing.Selected) -> None:
        run = event.row["run"] if event.row else ""
        if run and run != self.run_id:
            self.harness.open_run(str(run))
        elif event.row is not None and not run:
            self.notify("not created by a run in this store", timeout=3, markup=False)

    def subject(self) -> str:
        """Return the run, or the checkpoint under the cursor of the lineage."""
        row = self.query_one("#lineage", Listing).row if self.tab == "lineage" else None
        return str(row["name"]) if row else self.run_id

    def action_pause(self) -> None:
        """Pause or resume the run."""
        self.harness.pause_or_resume(self.run_id)

    def action_stop(self) -> None:
        """Stop the run with a checkpoint, after confirmation."""
        self.harness.stop_run(self.run_id)

    async def action_evaluate(self) -> None:
        """Evaluate the checkpoint."""
        if self.run is not None:
            await self.harness.evaluate_run(self.run)

    async def action_new(self) -> None:
        """Open a new run from this config, or the experiment's file."""
        if self.run is not None and self.run.method == Method.SWEEP:
            await self.harness.open_experiment(str(self.run.config.get("name")))
        elif self.run is not None:
            self.harness.open_new(self.run.config, self.run.id)

    def action_where(self) -> None:
        """Copy the folder's path to the clipboard if the terminal supports it."""
        if self.run is not None:
            self.app.copy_to_clipboard(self.run.folder)
            self.notify(safe_text(self.run.folder), title="folder", timeout=8, markup=False)
