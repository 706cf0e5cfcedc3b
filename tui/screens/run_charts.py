"""The charts of the Run screen: what is read and drawn, zoom, axes, overlays, export."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

from rich.style import Style
from rich.text import Text
from textual import on
from textual.binding import Binding, BindingType
from textual.widgets import Static

from kdharness.harness.types import Run, RunStatus
from kdharness.harness.util.text import figure
from kdharness.tui.screens.base import PlaceScreen
from kdharness.tui.viewmodels.axes import AXES, COUNTED, STEP, Clock, clock_of
from kdharness.tui.viewmodels.curves import SMOOTHING, CurveBook, Points
from kdharness.tui.viewmodels.drawings import HELDOUT, Drawing, Series, colours_of
from kdharness.tui.viewmodels.overview import heldout_marks
from kdharness.tui.viewmodels.selection import Selection, shortened
from kdharness.tui.widgets.chart_grid import ChartGrid
from kdharness.tui.widgets.curves import LETTERS

if TYPE_CHECKING:
    from kdharness.harness.store import Store

RATE = "tokens_per_second"


@dataclass(frozen=True)
class Fresh:
    """New points of curves, by run and name, and the times of new logs, by run."""

    points: list[tuple[str, str, Points]]
    times: dict[str, Points]


class RunCharts(PlaceScreen):
    """A screen with a grid of the curves of one run, with those of others over them."""

    BINDINGS: ClassVar[list[BindingType]] = [
        Binding("o", "overlay", "Overlay", id="run.overlay"),
        Binding("a", "axis", "x axis", id="run.axis"),
        Binding("y", "log_scale", "Log scale", id="run.log-scale"),
        Binding("m", "smooth", "Smooth", id="run.smooth"),
        Binding(
            "plus,equals_sign", "zoom(2)", "Zoom in", key_display="+", show=False, id="run.zoom-in"
        ),
        Binding("minus", "zoom(0.5)", "Zoom out", key_display="-", show=False, id="run.zoom-out"),
        Binding(
            "less_than_sign,comma",
            "pan(-1)",
            "Earlier",
            key_display="<",
            show=False,
            id="run.earlier",
        ),
        Binding(
            "greater_than_sign,full_stop",
            "pan(1)",
            "Later",
            key_display=">",
            show=False,
            id="run.later",
        ),
        Binding("0", "whole", "Whole curve", show=False, id="run.whole"),
        Binding("e", "export", "Export the chart", show=False, id="run.export"),
    ]

    def __init__(self, run: str) -> None:
        super().__init__()
        self.run_id = run
        self.others: list[str] = []
        self.run: Run | None = None
        self.status = RunStatus.STARTING
        self.book = CurveBook()
        self.times: dict[str, Points] = {}
        self.clocks: dict[str, Clock | None] = {}
        self.curve = "loss"
        # Whether the user has moved to a curve: until then it is the loss, even before it is there.
        self.picked = False
        self.axis = STEP
        self.log_axis = False
        self.weight = 0.0
        self.window: tuple[float, float] | None = None

    @property
    def grid(self) -> ChartGrid:
        """The charts."""
        return self.query_one("#chart", ChartGrid)

    @property
    def drawn(self) -> list[str]:
        """This run, and those whose curves are drawn over its own."""
        return [self.run_id, *self.others]

    # ------------------------------------------------------------ reading

    def load(self) -> None:
        """Read the points that are new since the last load."""
        runs = self.drawn
        after = {run: int(known[-1][0]) for run, known in self.times.items() if known}

        def work(store: Store) -> Fresh:
            fresh = Fresh([], {})
            for run in runs:
                names = store.curve_names(run)
                for name in names:
                    curve = store.curve(run, name, self.book.last_step(run, name))
                    points = [(float(s), float("nan") if v is None else v) for s, v in curve]
                    fresh.points.append((run, name, points))
                told = RATE if RATE in names else "loss"
                fresh.times[run] = [
                    (float(s), t) for s, t in store.curve_times(run, told, after.get(run, -1))
                ]
            return fresh

        self.read(work, self.take)

    def take(self, fresh: Fresh) -> None:
        """Show new points, if there are any."""
        changed = False
        for run, times in fresh.times.items():
            known = self.times.setdefault(run, [])
            last = known[-1][0] if known else -1.0
            known.extend(point for point in times if point[0] > last)
        for run, name, points in fresh.points:
            # Two loads may have read the same steps: only newer ones count.
            after = self.book.last_step(run, name)
            changed |= self.book.add(run, name, [p for p in points if p[0] > after])
        if changed:
            self.clocks.clear()
            self.draw()
            self.show_head()

    def show_head(self) -> None:
        """Update the lines on top; the screen implements it."""

    def forget_curves(self) -> None:
        """Read this run's curves again, which went back to an earlier step."""
        self.book.forget(self.run_id)
        self.times.pop(self.run_id, None)
        self.clocks.clear()

    def clock(self, run: str) -> Clock | None:
        """Return what a run's curves are drawn over; None for steps, or if that is unknown."""
        if self.axis == STEP:
            return None
        if run not in self.clocks:
            stored = self.run if run == self.run_id else self.harness.store.run(run)
            rates = self.book.curves.get(run, {}).get(RATE, [])
            self.clocks[run] = (
                None
                if stored is None
                else clock_of(self.axis, stored, self.times.get(run, []), rates)
            )
        return self.clocks[run]

    # ------------------------------------------------------------ drawing

    def names(self) -> list[str]:
        """Return the curves in their order; a training that has just begun has a loss to come."""
        lead = [label.partition(":")[2] for label in self.harness.primary.values()]
        names = self.book.names(self.run_id, lead)
        # A training reports its loss with the first step; what has none by then has another curve.
        late = self.run is not None and (self.run.step > 1 or not self.status.is_live)
        if "loss" not in names and names and not late:
            names.insert(0, "loss")
        return names

    def points(self, run: str, name: str, buckets: int) -> Points:
        """Return a curve as it is drawn: cut to the window, smoothed, over the chosen axis."""
        clock = self.clock(run)
        if self.axis != STEP and clock is None:
            return []
        window = self.window
        if window is not None and clock is not None:
            window = clock.step_at(window[0]), clock.step_at(window[1])
        points = self.book.ready(run, name, window, self.weight, buckets)
        return points if clock is None else [(clock.at(x), y) for x, y in points]

    def draw(self) -> None:
        """Draw all charts, the loss with the held-out losses over it first."""
        names = self.names()
        if not self.picked and names:
            self.curve = "loss" if "loss" in names else names[0]
        roles = colours_of(self.drawn, self.harness.run_colours())
        self.grid.fill([self._drawing(name, roles) for name in names], self.curve)
        self._legend(roles)

    def _drawing(self, name: str, roles: Mapping[str, str]) -> Drawing:
        buckets = max(self.grid.size.width, 40)
        series = [
            Series(run, points, roles[run])
            for run in self.drawn
            if (points := self.points(run, name, buckets))
        ]
        if name == "loss":
            series += heldout_marks(
                {held: self.points(self.run_id, held, buckets) for held in HELDOUT}
            )
        last = self.book.last(self.run_id, name)
        ends = self.book.interval(self.run_id, name)
        value = "" if last is None else figure(last)
        value += f" [{ends[0]:z.3g}, {ends[1]:z.3g}]" if ends else ""
        return Drawing(
            series,
            name,
            log=self.log_axis,
            x_name=self.axis,
            counted=self.axis in COUNTED,
            value=value,
            span=self.window,
        )

    def _notes(self) -> list[str]:
        notes = [f"by {self.axis}"] if self.axis != STEP and not self.window else []
        notes += ["log"] if self.log_axis else []
        notes += [f"smoothed {self.weight}"] if self.weight else []
        if self.window:
            unit = "steps" if self.axis == STEP else self.axis
            notes.append(f"{unit} {figure(self.window[0])}–{figure(self.window[1])}")
        return notes

    def _legend(self, roles: Mapping[str, str]) -> None:
        """Name the runs, and tell how the curves are drawn; hidden if there is nothing to say."""
        text = Text(no_wrap=True, overflow="ellipsis")
        style = self.style_of
        for letter, run in zip(LETTERS, self.drawn if self.others else (), strict=False):
            text.append(f"{letter} {shortened(run, 24)}  ", style(roles[run]))
        missing = [run for run in self.drawn if self.axis != STEP and self.clock(run) is None]
        text.append(", ".join(self._notes()))
        if missing:
            text.append(f"  {', '.join(missing)}: {self.axis} not known", style("warn"))
        line = self.query_one("#legend", Static)
        line.display = bool(text.plain)
        line.update(text)

    def style_of(self, role: str) -> Style:
        """Return the style of a role; the screen implements it."""
        return Style()

    # ------------------------------------------------------------ keys

    @on(ChartGrid.Chosen)
    def _chosen(self, event: ChartGrid.Chosen) -> None:
        self.picked |= event.title != self.curve
        self.curve = event.title
        self.draw()

    @on(ChartGrid.Panned)
    def _panned(self, event: ChartGrid.Panned) -> None:
        self.action_pan(event.by)

    def leave_filter(self) -> bool:
        """Show all charts again; return whether only one was shown."""
        if not self.grid.zoomed:
            return False
        self.grid.action_zoom()
        return True

    def _extent(self) -> tuple[float, float]:
        """Return the first and the last x of the chosen curve over all runs."""
        spans = []
        for run in self.drawn:
            points = self.book.curves.get(run, {}).get(self.curve)
            clock = self.clock(run)
            if points and (self.axis == STEP or clock is not None):
                ends = points[0][0], points[-1][0]
                spans.append(ends if clock is None else (clock.at(ends[0]), clock.at(ends[1])))
        return (min(a for a, _ in spans), max(b for _, b in spans)) if spans else (0.0, 1.0)

    def action_zoom(self, factor: float) -> None:
        """Show a smaller or larger part of the x axis around the middle."""
        whole = self._extent()
        low, high = self.window or whole
        middle, half = (low + high) / 2, (high - low) / 2 / factor
        finest = 1.0 if self.axis in COUNTED else (whole[1] - whole[0]) / 1000
        if half >= (whole[1] - whole[0]) / 2:
            self.window = None
        elif half >= finest:
            self.window = (max(whole[0], middle - half), min(whole[1], middle + half))
        self.draw()

    def action_pan(self, by: int) -> None:
        """Pan by a quarter of what is visible."""
        if self.window is None:
            return
        whole = self._extent()
        low, high = self.window
        shift = max(whole[0] - low, min(by * (high - low) / 4, whole[1] - high))
        self.window = (low + shift, high + shift)
        self.draw()

    def action_whole(self) -> None:
        """Show the whole curves."""
        self.window = None
        self.draw()

    def action_axis(self) -> None:
        """Draw over the next of steps, tokens, FLOPs and time that this run has."""
        passed = []
        for _ in AXES:
            self.axis = AXES[(AXES.index(self.axis) + 1) % len(AXES)]
            self.clocks.clear()
            if self.axis == STEP or self.clock(self.run_id) is not None:
                break
            passed.append(self.axis)
        self.window = None
        if passed:
            self.harness.tell(f"{self.run_id}: {' and '.join(passed)} not known yet")
        self.draw()

    def action_log_scale(self) -> None:
        """Toggle the logarithmic scale."""
        self.log_axis = not self.log_axis
        self.draw()

    def action_smooth(self) -> None:
        """Cycle through the smoothing weights."""
        self.weight = SMOOTHING[(SMOOTHING.index(self.weight) + 1) % len(SMOOTHING)]
        self.draw()

    def action_export(self) -> None:
        """Export the chosen chart as a picture."""
        series = [(run, self.points(run, self.curve, 2000)) for run in self.drawn]
        self.harness.export_curves(
            f"{self.run_id}-{self.curve}", series, self.curve, self.axis, self.log_axis
        )

    # ------------------------------------------------------------ overlaid runs

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

    def selected_runs(self) -> list[str]:
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
        self.others = self.selected_runs()
        self.load()
        self.draw()
