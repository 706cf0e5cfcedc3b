"""Trade-off: general score on x, domain score on y, and the Pareto front."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar

from rich.text import Text
from textual import on
from textual.binding import Binding, BindingType
from textual.containers import Container
from textual.widget import Widget
from textual.widgets import Static

from kdharness.harness.analysis.leaderboard import leaderboard
from kdharness.harness.analysis.metrics import is_bookkeeping
from kdharness.harness.analysis.series import series_of
from kdharness.harness.analysis.tradeoff import (
    TradeOffPoint,
    TradeOffView,
    dominated_area,
    on_shared_questions,
    placed_row,
    trade_off_view,
)
from kdharness.harness.errors import ConfigError
from kdharness.harness.types import Checkpoint, Score
from kdharness.harness.util.text import DASH, figure, safe_text
from kdharness.tui.screens.answering import Answering
from kdharness.tui.screens.base import ListPlace
from kdharness.tui.screens.dialogs import Choose
from kdharness.tui.screens.panes import WIDE
from kdharness.tui.settings import AXES
from kdharness.tui.viewmodels.answers import Answered, point_overview, view_answer
from kdharness.tui.viewmodels.rows import Column, Part, Row
from kdharness.tui.widgets.chart import Mark, Plane, PlaneChart
from kdharness.tui.widgets.pane import Pane
from kdharness.tui.widgets.table import Listing

if TYPE_CHECKING:
    from kdharness.harness.store import Store

COLUMNS = [
    Column("number", "#", 3, right=True),
    Column("id", "checkpoint", 12, grow=1, name=True),
    Column("general", "general", 8, right=True),
    Column("domain", "domain", 8, right=True),
    Column("gain", "gain", 6, right=True, falling=True),
    Column("retention", "retention", 9, right=True, falling=True),
]


@dataclass(frozen=True)
class Loaded:
    """What was read from the store; without a trade-off, why there is none."""

    scores: list[Score]
    view: TradeOffView | None
    labels: list[str]
    merges: list[list[str]]
    problem: str = ""


class TradeOffScreen(Answering, ListPlace):
    """How much each checkpoint gained in the domain, and lost in general."""

    place = "tradeoff"
    title_text = "Trade-off"
    about = (
        "On top: the largest significant gain at the retention that {answer.keep:K} asks for, by "
        "corrected tests. Each point is a checkpoint with its intervals; filled points are on the "
        "Pareto front: no other is better on both axes. Up and right are better; axes of losses "
        "are reversed. gain is the share of the expert's domain gain, retention the share of the "
        "reference's general score. {tradeoff.general:g} and {tradeoff.domain:d} choose the axes, "
        "{tradeoff.reference:r} and {tradeoff.expert:E} the reference and the expert, "
        "{tradeoff.intervals:i} hides the intervals. {tradeoff.mark:Space} marks checkpoints: the "
        "chart names them. Joined by lines: merges on the WiSE-FT curve, runs that differ in one "
        "setting such as the learning rate, and the step checkpoints of a run."
    )
    BINDINGS: ClassVar[list[BindingType]] = [
        Binding("g", "axis('general')", "General", id="tradeoff.general"),
        Binding("d", "axis('domain')", "Domain", id="tradeoff.domain"),
        Binding("r", "role('reference')", "Reference", id="tradeoff.reference"),
        Binding("E", "role('expert')", "Expert", show=False, id="tradeoff.expert"),
        Binding("space", "mark", "Mark", show=False, id="tradeoff.mark"),
        Binding("i", "whiskers", "Intervals", id="tradeoff.intervals"),
        Binding("p", "picture", "Picture", id="tradeoff.picture"),
        Binding("e", "export", "Export", show=False, id="tradeoff.export"),
    ]

    def __init__(self) -> None:
        super().__init__()
        self.roles: dict[str, str | None] = {"reference": None, "expert": None}
        self.view: TradeOffView | None = None
        self.points: Sequence[TradeOffPoint] = ()
        self.asked: tuple[TradeOffView | None, float] | None = None
        self.labels: list[str] = []
        self.merges: list[list[str]] = []
        self.whiskers = True

    def body(self) -> Iterable[Widget]:
        """Yield chart and list, side by side if there is room."""
        yield self.answer_line()
        yield Static(classes="line", id="what")
        with Container(id="plane"):
            yield PlaneChart(id="chart")
            with Container(id="points"):
                yield Listing(COLUMNS, self.cell, id="list", marks=True, waiting="loading scores …")
                yield Pane()

    def on_mount(self) -> None:
        """Load the scores in a thread."""
        super().on_mount()
        self.seen = self.harness.version
        self.follow_selection()
        self.load()

    def on_resize(self) -> None:
        """Put chart and list side by side, or one above the other."""
        wide = self.size.width >= WIDE
        self.query_one("#plane").set_class(wide, "wide")
        self.listing().styles.height = self.listing().lines + 1 if wide else "1fr"

    def store_changed(self) -> None:
        """Load again: there may be new scores."""
        self.load()

    def load(self) -> None:
        """Read axes, points and front from the store."""
        paths, axes, roles = self.harness.paths, dict(self.harness.primary), dict(self.roles)

        def work(store: Store) -> Loaded:
            scores = leaderboard(store, paths)
            labels = list(
                dict.fromkeys(
                    f"{s.bench}:{s.metric}"
                    for s in scores
                    if s.value is not None and not is_bookkeeping(s.metric)
                )
            )
            merges = merge_curves(store.checkpoints())
            # A metric that was chosen for another store is not on this one.
            general, domain = (
                label if (label := axes.get(axis)) in labels else None for axis in AXES
            )
            try:
                view = trade_off_view(
                    store, paths, general, domain, roles["reference"], roles["expert"], scores
                )
            except ConfigError as error:
                return Loaded(scores, None, labels, merges, error.message)
            names = {item.point.checkpoint for item in view.points}
            lines = [list(line.checkpoints) for line in series_of(store, names)]
            return Loaded(scores, view, labels, merges + lines)

        self.read(work, self.show)

    def load_answer(self, loaded: Loaded) -> None:
        """Test who has most of the domain; the chart does not wait for it."""
        keep, view, scores = self.harness.keep, loaded.view, loaded.scores
        label = view.domain.label if view is not None else ""

        def show(answered: Answered) -> None:
            self.show_answer(answered)
            self._pair(answered)
            self._tell()

        self.read(lambda store: view_answer(store, scores, view, keep, label), show, what="answer")

    def _pair(self, answered: Answered) -> None:
        """Compare what is unfinished on the questions that the others answered, too."""
        if self.view is None or answered.found is None:
            return
        paired = on_shared_questions(self.view.points, answered.found.points)
        if paired != list(self.points):
            self.points = paired
            self.listing().set_rows(self._rows(paired))

    def _rows(self, placed: Sequence[TradeOffPoint]) -> list[Row]:
        return [
            {
                "id": item.point.checkpoint,
                "number": number,
                "method": item.point.method,
                "general": item.point.general,
                "domain": item.point.domain,
                "gain": item.gain,
                "retention": item.retention,
                "front": item.on_front,
            }
            for number, item in enumerate(placed, 1)
        ]

    def show(self, loaded: Loaded) -> None:
        """Draw what was loaded."""
        view = loaded.view
        self.labels, self.merges = loaded.labels, loaded.merges
        asked = view, self.harness.keep
        if asked != self.asked:
            self.asked = asked
            self.call_after_refresh(self.load_answer, loaded)
        listing = self.listing()
        if view is None:
            empty = "no two scores to compare yet: evaluate ({app.evaluate:6})"
            listing.empty = self.harness.with_keys(empty)
            self.view, self.points = None, ()
            listing.set_rows([])
            self._draw()
            self.query_one("#what", Static).update(
                Text(safe_text(loaded.problem.split("\n")[0], 300))
            )
            return
        if view == self.view:
            return
        self.view, self.points = view, view.points
        x, y, placed, roles = view
        rows = self._rows(placed)
        higher = [k for k, axis in (("general", x), ("domain", y)) if not axis.lower_is_better]
        listing.set_columns(
            [
                *COLUMNS[:2],
                *(
                    Column(
                        c.key,
                        {"general": "→ gen.", "domain": "↑ dom."}.get(c.key, c.title),
                        c.width,
                        right=True,
                        falling=c.falling or c.key in higher,
                    )
                    for c in COLUMNS[2:]
                ),
            ]
        )
        listing.set_rows(rows)
        listing.styles.height = listing.lines + 1 if self.size.width >= WIDE else "1fr"
        text = Text(no_wrap=True, overflow="ellipsis")
        text.append(safe_text(f"reference: {roles[0] or DASH}  expert: {roles[1] or DASH}"))
        area = dominated_area(placed)
        text.append(f"  hypervolume: {figure(area)}" if area is not None else "")
        text.append("  ● Pareto front  ○ dominated")
        self.query_one("#what", Static).update(text)
        self._draw()
        self._tell()

    def plane(self) -> Plane:
        """Return the chart's data."""
        if self.view is None:
            return Plane()
        x, y, placed, _ = self.view
        marks = [
            Mark(
                p.point.checkpoint,
                p.point.general,
                p.point.domain,
                p.point.general_interval,
                p.point.domain_interval,
                p.on_front,
                "good" if p.on_front else "",
                p.point.checkpoint in self.harness.selection.names,
            )
            for p in placed
        ]
        points = {mark.name: (mark.x, mark.y) for mark in marks}
        front = sorted((m.x, m.y) for m in marks if m.front)
        lines = [
            front,
            *([points[name] for name in line if name in points] for line in self.merges),
        ]
        row = self.listing().row
        return Plane(
            marks,
            x.label,
            y.label,
            x.lower_is_better,
            y.lower_is_better,
            [line for line in lines if len(line) > 1],
            str(row["id"]) if row else "",
            self.whiskers,
        )

    def _draw(self) -> None:
        if self.asked is not None:  # something is loaded
            self.query_one("#chart", PlaneChart).show(self.plane())

    def cell(self, row: Row, column: Column, width: int) -> list[Part]:
        """Return the parts of one cell."""
        value = row.get(column.key)
        if column.key == "number":
            return [(f"{'●' if row['front'] else '○'}{value}", "good" if row["front"] else "")]
        if column.key in ("gain", "retention"):
            return [(DASH if value is None else f"{value:z.0%}", "")]
        if column.key in ("general", "domain"):
            return [(figure(value), "")]
        return [(str(value), "strong" if row["front"] else "")]

    @on(Listing.Highlighted, "#list")
    def _moved(self) -> None:
        self._draw()
        self._tell()

    def list_box(self) -> Widget:
        """Return the widget that the filter line stands below."""
        return self.query_one("#plane")

    def _tell(self) -> None:
        """Show the point under the cursor in numbers."""
        row, view, pane = self.listing().row, self.view, self.query_one("#pane", Pane)
        if row is None or view is None:
            pane.show("", [])
            return
        item = next(p for p in self.points if p.point.checkpoint == row["id"])
        found = self.answered.found if self.answered is not None else None
        pane.show(str(row["id"]), point_overview(item, view, found))

    @on(Listing.Selected, "#list")
    def _open(self, event: Listing.Selected) -> None:
        if event.row is not None:
            self.harness.open_checkpoint(str(event.row["id"]))

    # ------------------------------------------------------------ actions

    def action_axis(self, name: str) -> None:
        """Choose a score of any benchmark as an axis."""

        def take(chosen: str) -> None:
            self.harness.set_primary(name, chosen)
            self.seen = self.harness.version
            self.view = None
            self.load()

        current = ""
        if self.view is not None:
            current = (self.view[0] if name == "general" else self.view[1]).label
        self._choose(f"The {name} axis", self.labels, current, take)

    def action_role(self, name: str) -> None:
        """Choose the reference or the expert."""
        if self.view is None:
            return

        def take(chosen: str) -> None:
            self.roles[name] = chosen
            self.view = None
            self.load()

        current = self.view[3][0 if name == "reference" else 1] or ""
        names = [item.point.checkpoint for item in self.view[2]]
        self._choose(f"The {name}", names, current, take)

    def _choose(self, title: str, names: Sequence[str], current: str, take: Any) -> None:
        def chosen(selected: list[str] | None) -> None:
            if selected:
                take(selected[0])

        rows = [{"id": name} for name in names]
        self.app.push_screen(
            Choose(title, rows, [Column("id", "name", 30, grow=1)], current=current), chosen
        )

    def action_mark(self) -> None:
        """Mark the checkpoint for comparison."""
        row = self.listing().row
        if row is not None:
            self.harness.toggle_selected(str(row["id"]))

    def selection_changed(self) -> None:
        """Mark what is selected, and name it in the chart."""
        self.listing().set_marks(self.harness.selection.names)
        self._draw()

    def action_whiskers(self) -> None:
        """Show or hide the intervals."""
        self.whiskers = not self.whiskers
        self._draw()

    def action_picture(self) -> None:
        """Export the chart as SVG or PNG."""
        self.harness.export_plane("tradeoff", self.plane())

    def export_rows(self) -> tuple[str, Sequence[dict[str, Any]], list[str]]:
        """Return the points, in the format of `tradeoff --format json`."""
        rows = [placed_row(item) for item in self.points] if self.view else []
        return "tradeoff", rows, list(rows[0]) if rows else []


def merge_curves(checkpoints: Sequence[Checkpoint]) -> list[list[str]]:
    """Return the names along each WiSE-FT curve: merges of the same parents, by alpha."""
    families: dict[tuple[tuple[str, str], ...], list[Checkpoint]] = {}
    for checkpoint in checkpoints:
        if checkpoint.method == "merge" and {"reference", "expert"} <= set(checkpoint.parents):
            families.setdefault(tuple(sorted(checkpoint.parents.items())), []).append(checkpoint)
    names = {checkpoint.id: checkpoint.name for checkpoint in checkpoints}
    lines = []
    for parents, family in families.items():
        family.sort(key=lambda c: float(c.info.get("alpha", 0.5)))
        ends = {role: names.get(parent, parent) for role, parent in parents}
        lines.append([ends["reference"], *(c.name for c in family), ends["expert"]])
    return lines
