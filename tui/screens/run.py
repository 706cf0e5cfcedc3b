"""One run: live curves, log, config, lineage; pause, resume, stop."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING, ClassVar

from rich.text import Text
from textual import on
from textual.binding import Binding, BindingType
from textual.containers import Horizontal
from textual.widget import Widget
from textual.widgets import Static

from kdharness.harness.config.summary import models_of
from kdharness.harness.runs.status import effective_status
from kdharness.harness.runs.summary import eta
from kdharness.harness.types import Method, Run, RunStatus
from kdharness.harness.util.text import clock, figure, safe_text
from kdharness.tui.screens.caring import Caring
from kdharness.tui.screens.chart_keys import ChartKeys
from kdharness.tui.viewmodels.curves import CurveBook
from kdharness.tui.viewmodels.marks import bar, sparkline
from kdharness.tui.viewmodels.rows import STATUS_MARKS, Column, Part, Row
from kdharness.tui.viewmodels.run import lineage_rows
from kdharness.tui.viewmodels.selection import Selection
from kdharness.tui.widgets.chart import CurveChart, Series
from kdharness.tui.widgets.log_view import LogPane
from kdharness.tui.widgets.table import Listing
from kdharness.tui.widgets.text_view import TextView

if TYPE_CHECKING:
    from kdharness.harness.store import Store

TABS = (
    ("c", "curves", "Curves"),
    ("g", "log", "Log"),
    ("f", "config", "Config"),
    ("i", "lineage", "Lineage"),
)


class CurveNames(Listing):
    """The run's curves; left and right pan the chart."""

    BINDINGS: ClassVar[list[BindingType]] = [
        Binding("enter", "noop", show=False),
        Binding("left", "screen.pan(-1)", "Earlier steps", show=False, id="run.earlier"),
        Binding("right", "screen.pan(1)", "Later steps", show=False, id="run.later"),
    ]


class RunScreen(Caring, ChartKeys):
    """One run, with other runs' curves overlaid."""

    place = "runs"
    shows_machine = True
    title_text = "Run"
    about = (
        "↑↓ choose a curve; + and - zoom, ←→ pan, 0 shows all; y toggles the log scale, m "
        "smoothing; o overlays other runs, which are selected on every screen. p pauses, or "
        "resumes a paused, stopped or interrupted run; X stops it after saving a checkpoint. n "
        "starts a new run from this config, v evaluates the checkpoint. Closing the app does not "
        "stop the run."
    )
    BINDINGS: ClassVar[list[BindingType]] = [
        *(
            Binding(key, f"tab('{name}')", title, show=False, id=f"run.{name}")
            for key, name, title in TABS
        ),
        Binding("p", "pause", "Pause/resume", id="run.pause"),
        Binding("X", "stop", "Stop", id="run.stop"),
        Binding("o", "overlay", "Overlay", id="run.overlay"),
        Binding("y", "log_scale", "Log scale", id="run.log-scale"),
        Binding("m", "smooth", "Smooth", id="run.smooth"),
        Binding(
            "plus,equals_sign", "zoom(2)", "Zoom in", key_display="+", show=False, id="run.zoom-in"
        ),
        Binding("minus", "zoom(0.5)", "Zoom out", key_display="-", show=False, id="run.zoom-out"),
        Binding("0", "whole", "Whole curve", show=False, id="run.whole"),
        Binding("v", "evaluate", "Evaluate", id="run.evaluate"),
        Binding("n", "new", "New from this", show=False, id="run.new"),
        Binding("w", "where", "Copy the folder's path", show=False, id="run.folder"),
        Binding("e", "export", "Export the chart", show=False, id="run.export"),
    ]

    def __init__(self, run: str) -> None:
        super().__init__()
        self.run_id = run
        self.others = []
        self.run: Run | None = None
        self.status = RunStatus.STARTING
        self.book = CurveBook()
        self.tab = ""
        self.curve = "loss"
        # Whether the user has moved to a curve: until then it is the loss, even before it is there.
        self.picked = False

    def body(self) -> Iterable[Widget]:
        """Yield head, tabs and the four pages."""
        yield Static(id="head", classes="head")
        yield Static(id="tabs", classes="line")
        with Horizontal(id="curves"):
            yield CurveNames(
                [Column("name", "curve", 12, grow=1), Column("last", "last", 8, right=True)],
                self.cell,
                key="name",
                id="names",
                empty="no curves yet",
            )
            yield CurveChart(id="chart")
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
        self.others = self._selected_runs()
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
            self.book.forget(self.run_id)
        self._head()
        self._fill_tab()
        self.load()

    def load(self) -> None:
        """Read the points that are new since the last load."""
        runs = [self.run_id, *self.others]

        def work(store: Store) -> list[tuple[str, str, list[tuple[float, float]]]]:
            fresh = []
            for run in runs:
                for name in store.curve_names(run):
                    curve = store.curve(run, name, self.book.last_step(run, name))
                    points = [(float(s), float("nan") if v is None else v) for s, v in curve]
                    fresh.append((run, name, points))
            return fresh

        self.read(work, self.take)

    def take(self, fresh: list[tuple[str, str, list[tuple[float, float]]]]) -> None:
        """Show new points, if there are any."""
        changed = False
        for run, name, points in fresh:
            # Two loads may have read the same steps: only newer ones count.
            after = self.book.last_step(run, name)
            changed |= self.book.add(run, name, [p for p in points if p[0] > after])
        if changed:
            self._names()
            self.draw()
            self._head()

    # ------------------------------------------------------------ showing

    def _head(self) -> None:
        run = self.run
        if run is None:
            return

        self.status = effective_status(run)
        mark, role = STATUS_MARKS[self.status.value]
        styles = self.query_one("#names", Listing)
        width = self.size.width - 2
        text = Text(no_wrap=True, overflow="ellipsis")
        text.append(safe_text(run.id), "bold")
        text.append(f"  {mark} {self.status.value}", styles.style_of(role))
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
        steps = f"{stage} {run.step}/{run.max_steps} {share:.0%}" if run.max_steps else stage
        failed = self.book.last(self.run_id, "failed")
        facts += [f"{failed:.0f} failed"] if failed else []
        facts += [f"now {run.info['at_work']}"] if run.info.get("at_work") else []
        tail = safe_text("  ".join(facts), 80)
        room = max(width - len(steps) - len(tail) - 4, 4)
        text.append(f"\n{safe_text(steps)} ")
        text.append(bar(share, min(room, 60)), styles.style_of(role))
        text.append(f"  {tail}")
        if run.error:
            text.append(f"\n{safe_text(run.error, 300)}", styles.style_of("bad"))
        self.query_one("#head", Static).update(text)

    def _fill_tab(self) -> None:
        run = self.run
        if run is None:
            return
        if self.tab == "log":
            app = self.harness
            self.query_one("#log", LogPane).read(app.store, app.paths, self.run_id)
        elif self.tab == "config":
            from kdharness.harness.util.untrusted import dump_yaml

            text = dump_yaml(run.config)
            self.query_one("#config", TextView).set_text(text)
        elif self.tab == "lineage":
            self.query_one("#lineage", Listing).set_rows(lineage_rows(self.harness.store, run))

    def _names(self) -> None:
        width = 10 if self.size.width >= 100 else 0
        self.query_one("#names").styles.width = 40 if width else 24
        rows = []
        lead = [label.partition(":")[2] for label in self.harness.primary.values()]
        for name in self.book.names(self.run_id, lead):
            points = self.book.ready(self.run_id, name, None, 0.0, max(width, 1))
            rows.append(
                {
                    "name": name,
                    "last": self.book.last(self.run_id, name),
                    "course": sparkline([y for _, y in points], width),
                }
            )
        listing = self.query_one("#names", Listing)
        columns = [Column("name", "curve", 12, grow=1), Column("last", "last", 8, right=True)]
        if width:
            columns.insert(1, Column("course", "", width))
        if [c.key for c in columns] != [c.key for c in listing.columns]:
            listing.set_columns(columns)
        names = [str(row["name"]) for row in rows]
        # A training reports its loss with the first step; what has none by then has another curve.
        late = self.run is not None and (self.run.step > 1 or not self.status.is_live)
        if not self.picked and names and ("loss" in names or late):
            self.curve = "loss" if "loss" in names else names[0]
        with listing.prevent(Listing.Highlighted):
            listing.set_rows(rows)
            if not self.picked and self.curve in names:
                listing.move_to(names.index(self.curve))

    def draw(self) -> None:
        """Draw the chosen curve of this run and the overlaid ones."""
        chart = self.query_one("#chart", CurveChart)
        buckets = max(chart.size.width, 40)
        runs = [self.run_id, *self.others]
        series = []
        for index, run in enumerate(runs):
            points = self.book.ready(run, self.curve, self.window, self.weight, buckets)
            if points:
                series.append(Series(run, points, f"series-{index % 4 + 1}"))
        notes = ["log"] if self.log_axis else []
        notes += [f"smoothed {self.weight}"] if self.weight else []
        notes += [f"steps {self.window[0]:.0f}–{self.window[1]:.0f}"] if self.window else []
        if ends := self.book.interval(self.run_id, self.curve):
            notes.append(f"last interval {ends[0]:.3g} to {ends[1]:.3g}")
        chart.show(series, self.curve.replace("_", " "), ", ".join(notes), self.log_axis)

    def cell(self, row: Row, column: Column, width: int) -> list[Part]:
        """Return the parts of a cell of the curve list or the lineage."""
        if column.key == "tree":
            indent = "  " * row["depth"] + ("└ " if row["depth"] else "")
            role = f"{row['role']}: " if row["role"] else ""
            again = " (see above)" if row["again"] else ""
            return [(indent + role, "dim"), (str(row["name"]), "strong"), (again, "dim")]
        if column.key == "last":
            return [(figure(row["last"]), "")]
        role = {"course": "series-1", "method": "dim", "path": "dim"}.get(column.key, "")
        return [(str(row.get(column.key) or ""), role)]

    # ------------------------------------------------------------ actions

    def action_tab(self, name: str) -> None:
        """Switch to another page of the run."""
        self.tab = name
        line = Text()
        style = self.query_one("#names", Listing)
        for key, tab, title in TABS:
            line.append(f" {key} ", "bold")
            line.append(title, style.style_of("active") if tab == name else "")
            line.append("  ")
            self.query_one(f"#{tab}").display = tab == name
        self.query_one("#tabs", Static).update(line)
        self._fill_tab()
        self.query_one("#names" if name == "curves" else f"#{name}").focus()

    @on(Listing.Highlighted, "#names")
    def _chosen(self, event: Listing.Highlighted) -> None:
        if event.row is not None and event.row["name"] != self.curve:
            self.curve, self.picked = str(event.row["name"]), True
            self.draw()

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

    def action_overlay(self) -> None:
        """Choose runs to overlay."""
        self.harness.choose_runs(self._overlay, marked=self.others, but=self.run_id)

    def _overlay(self, runs: list[str]) -> None:
        """Select this run and those chosen, in the order that they had."""
        chosen = [self.run_id, *runs] if runs else []
        names = list(dict.fromkeys(self._checkpoint_of(run) for run in chosen))
        before = [name for name in self.harness.selection.names if name in names]
        self.harness.select(Selection(tuple(dict.fromkeys([*before, *names]))))

    def _checkpoint_of(self, run: str) -> str:
        stored = self.harness.store.run(run)
        return stored.checkpoint or run if stored is not None else run

    def _selected_runs(self) -> list[str]:
        """Return the other runs of the selection."""
        store = self.harness.store
        runs = []
        for name in self.harness.selection.names:
            checkpoint = store.checkpoint(name)
            run = checkpoint.run if checkpoint is not None and checkpoint.run else name
            if run != self.run_id and store.run(run) is not None:
                runs.append(run)
        return list(dict.fromkeys(runs))[:3]

    def selection_changed(self) -> None:
        """Overlay the curves of what is selected."""
        self.others = self._selected_runs()
        self.load()
        self.draw()

    def action_export(self) -> None:
        """Export the chart as a picture."""
        runs = [self.run_id, *self.others]
        series = [
            (run, self.book.ready(run, self.curve, self.window, self.weight, 2000)) for run in runs
        ]
        self.harness.export_curves(f"{self.run_id}-{self.curve}", series, self.curve, self.log_axis)
