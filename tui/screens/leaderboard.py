"""The leaderboard: one row per checkpoint, one column per score, intervals of the chosen one."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, Any, ClassVar

from rich.text import Text
from textual import on
from textual.binding import Binding, BindingType
from textual.widget import Widget
from textual.widgets import Static

from kdharness.harness.analysis.leaderboard import leaderboard
from kdharness.harness.analysis.metrics import LEGEND, SCORE_COLUMNS
from kdharness.harness.stats.metric_specs import category_of
from kdharness.harness.types import Score
from kdharness.harness.util.text import figure, safe_text
from kdharness.tui.screens.answering import Answering
from kdharness.tui.screens.board_columns import BoardColumns
from kdharness.tui.screens.caring import Caring
from kdharness.tui.screens.dialogs import Choose
from kdharness.tui.screens.panes import Details
from kdharness.tui.viewmodels.answers import board_answer
from kdharness.tui.viewmodels.checkpoint_overview import checkpoint_overview
from kdharness.tui.viewmodels.leaderboard import (
    MARKS,
    Board,
    Figure,
    interval_width,
    leading,
    make_board,
    marks_of,
    missing_sentence,
    sentence,
)
from kdharness.tui.viewmodels.marks import interval_text
from kdharness.tui.viewmodels.rows import Column, Part, Row
from kdharness.tui.viewmodels.selection import shortened
from kdharness.tui.widgets.table import Listing

if TYPE_CHECKING:
    from kdharness.harness.store import Store
    from kdharness.tui.viewmodels.drawings import Block

ALL = "all benchmarks"
FIXED = [
    Column("id", "checkpoint", 18, grow=3, frozen=True, name=True),
    Column("method", "kind", 5, leave=1, frozen=True),
    Column("bar", "", 14, grow=2, frozen=True, group="interval"),
]


class LeaderboardScreen(Caring, Answering, BoardColumns):
    """All scores of the store."""

    place = "leaderboard"
    title_text = "Leaderboard"
    below = True
    about = (
        "On top: the largest significant gain at the retention that {answer.keep:K} sets, by "
        "corrected tests. One row per checkpoint, one column per score. "
        "{list.left:←}{list.right:→} choose a score: its 95 % intervals are drawn on a common "
        "scale; {list.sort:s} sorts by it, {board.domain:d} and {board.general:g} let it lead "
        "every screen as the domain or the general metric. {board.categories:c} shows categories "
        "as columns, {board.bench:b} one benchmark, {board.published:o} adds published scores; "
        "{board.shift-left:<} and {board.shift-right:>} move a column, {board.hide:-} hides it, "
        "{board.columns:C} chooses and orders them, which is kept. {board.mark:Space} marks "
        "checkpoints: {app.compare:4} compares them, {app.transcripts:5} shows their answers. "
        "{list.open:Enter} opens the run that created a checkpoint; below 110 columns, first its "
        "scores, which wider terminals show below the table. {care.remove:Del} deletes a "
        "checkpoint, {care.rename:R} renames it, {care.tags:#} tags it, {care.note:N} writes a "
        "note."
    )
    BINDINGS: ClassVar[list[BindingType]] = [
        Binding("c", "categories", "Categories", id="board.categories"),
        Binding("b", "bench", "Benchmark", id="board.bench"),
        Binding("d", "primary('domain')", "Lead: domain", show=False, id="board.domain"),
        Binding("g", "primary('general')", "Lead: general", show=False, id="board.general"),
        Binding("space", "mark", "Mark", id="board.mark"),
        Binding("o", "published", "Published", show=False, id="board.published"),
        Binding("e", "export", "Export", id="board.export"),
    ]

    def __init__(self) -> None:
        super().__init__()
        self.scores: list[Score] = []
        self.shown: list[Score] = []
        self.board = Board([], [], [])
        self.figures: list[Figure] = []
        self.bench = ""
        self.categories = False
        self.published = 0
        self.scale = (0.0, 1.0)
        self.figure: Figure | None = None
        self.asked: tuple[float, dict[str, str]] | None = None
        self.lead: list[str] = []
        self.colours: dict[str, str] = {}

    def body(self) -> Iterable[Widget]:
        """Yield the table and the details of the chosen cell."""
        yield self.answer_line()
        yield Static(classes="line", id="what")
        yield self.split(
            Listing(FIXED, self.cell, id="list", marks=True, waiting="loading judgments …")
        )
        yield Static(classes="detail", id="cell")

    def on_mount(self) -> None:
        """Load in a thread; there may be many judgments."""
        super().on_mount()
        self.seen = self.harness.version
        self.follow_selection()
        self.load()

    def store_changed(self) -> None:
        """Load again: there may be new judgments."""
        self.load()

    def load(self) -> None:
        """Compute the scores that are not cached yet."""
        paths = self.harness.paths
        self.read(lambda store: leaderboard(store, paths), self.show)

    def load_answer(self) -> None:
        """Test who is best; the table does not wait for it."""
        scores, paths = self.scores, self.harness.paths
        primary, keep = dict(self.harness.primary), self.harness.keep
        self.read(
            lambda store: board_answer(store, paths, scores, primary, keep),
            self.show_answer,
            what="answer",
        )

    def show(self, scores: list[Score]) -> None:
        """Show these scores; repaint only if they have changed."""
        asked = self.harness.keep, dict(self.harness.primary)
        led = self.asked[1] if self.asked is not None else None
        fresh = scores != self.scores or led != asked[1]
        if fresh or asked != self.asked:
            self.asked = asked
            self.call_after_refresh(self.load_answer)
        if fresh or not self.board.figures:
            self.scores = scores
            self.rebuild()

    def rebuild(self) -> None:
        """Rebuild columns and rows; keep the chosen score if it still exists."""
        listing = self.listing()
        self.shown = scores = [*self.scores, *self._published()]
        self.lead = leading(self.scores, self.harness.primary)
        self.board = make_board(
            scores, bench=self.bench, categories=self.categories, lead=self.lead
        )
        self.arrange_columns()
        empty = "no scores yet: evaluate a checkpoint ({app.evaluate:6}), or press "
        empty += "{runs.evaluate:v} on a run"
        listing.empty = self.harness.with_keys(empty)
        listing.set_columns(
            [
                *FIXED,
                *(
                    Column(
                        f.key, f.title, 18, right=True, group=f.bench, falling=not f.lower_is_better
                    )
                    for f in self.figures
                ),
            ]
        )
        if self.figure not in self.figures:
            self.figure = self.figures[0] if self.figures else None
        if self.figure is not None:
            listing.active = len(FIXED) + self.figures.index(self.figure)
            if listing.sort_key not in (None, "id", "method", self.figure.key):
                listing.sort_key = None
            if listing.sort_key is None:
                listing.sort_key, listing.reverse = (
                    self.figure.key,
                    not self.figure.lower_is_better,
                )
        listing.set_rows(self.board.rows)
        self.colours = self.harness.run_colours()
        self.fit_list()
        self.call_after_refresh(lambda: self.while_here(self.read_pane))  # the rows first
        self._chosen()

    def details(self, row: Row) -> Details:
        """Return the intervals of every score of a checkpoint."""
        scores, lead, colours = self.shown, self.lead, self.colours

        def read(_: Store) -> list[Block]:
            # With the categories of every benchmark, whatever the table shows.
            board = make_board(scores, categories=True, lead=lead)
            own = next((r for r in board.rows if r["id"] == row["id"]), row)
            return checkpoint_overview(board, own, colours)

        return Details(str(row["id"]), read)

    # ------------------------------------------------------------ cells

    def cell(self, row: Row, column: Column, width: int) -> list[Part]:
        """Return a score with half its interval and its flags, or the drawn interval."""
        if column.key == "bar":
            return self._bar(row, width)
        score = row["scores"].get(column.key)
        if column.key in ("id", "method"):
            return [(str(row[column.key]), "strong" if column.key == "id" else "dim")]
        if score is None or score.value is None:
            return [("–" + ("✗" if score is not None and score.n_failed else ""), "dim")]
        # Where one column is chosen, only its ties matter: else nearly every cell has the mark.
        chosen = self.figure is not None and column.key == self.figure.key
        close = chosen and column.key in row["close"]
        role = "accent" if chosen else ""
        marks = marks_of(score, close)
        return [
            (f"{figure(score.value):>6}", role),
            (f" {interval_width(score):<8}", "dim"),
            (f"{marks[:3]:<3}", "warn"),
        ]

    def _bar(self, row: Row, width: int) -> list[Part]:
        score = row["scores"].get(self.figure.key) if self.figure else None
        if score is None or score.value is None:
            return [("", "")]
        low = score.value if score.ci_low is None else score.ci_low
        high = score.value if score.ci_high is None else score.ci_high
        role = self.colours.get(row["run"], "series-1")
        return [(interval_text(low, score.value, high, *self.scale, width), role)]

    def _chosen(self) -> None:
        """Update the scale and the line above the table for the chosen column."""
        listing = self.listing()
        index = listing.active - len(FIXED)
        if 0 <= index < len(self.figures):
            self.figure = self.figures[index]
        line = Text(no_wrap=True, overflow="ellipsis")
        if self.figure is not None:
            self.scale = self.board.spread(self.figure.key)
            arrow = "lower is better" if self.figure.lower_is_better else "higher is better"
            low, high = map(figure, self.scale)
            line.append(f"{self.figure.bench} {self.figure.title}", "bold")
            line.append(f"  judge {shortened(self.figure.judge, 24)}  {arrow}  axis {low}–{high}")
            line.append(f"  {self.columns_told()}")
        self.query_one("#what", Static).update(line)
        listing.refresh()
        self._tell(listing.row)

    def _tell(self, row: Row | None) -> None:
        score = row["scores"].get(self.figure.key) if row and self.figure else None
        detail = self.query_one("#cell", Static)
        if row is None or self.figure is None:
            detail.update("")
            return
        if score is None:
            detail.update(Text(safe_text(missing_sentence(row, self.figure), 1000)))
            return
        detail.update(Text(safe_text(sentence(score, self.figure.key in row["close"]), 1000)))

    @on(Listing.Highlighted, "#list")
    def _moved(self, event: Listing.Highlighted) -> None:
        self._tell(event.row)

    @on(Listing.ColumnChosen, "#list")
    def _column(self) -> None:
        self._chosen()

    @on(Listing.Selected, "#list")
    def _open(self, event: Listing.Selected) -> None:
        row = event.row
        if row is None:
            return
        name = str(row["id"])
        if self.has_pane:
            self.harness.open_checkpoint(name)
        else:
            self.open_details(row, lambda: self.harness.open_checkpoint(name))

    # ------------------------------------------------------------ actions

    def action_categories(self) -> None:
        """Toggle categories as columns."""
        if not any(category_of(score.metric) for score in self.scores):
            self.notify("no benchmark here has categories", timeout=3, markup=False)
            return
        self.categories = not self.categories
        self.rebuild()

    def action_bench(self) -> None:
        """Choose one benchmark, or all of them."""

        def chosen(names: list[str] | None) -> None:
            if names:
                self.bench = "" if names[0] == ALL else names[0]
                self.rebuild()

        rows = [{"id": name} for name in (ALL, *self.board.benches)]
        columns = [Column("id", "benchmark", 30, grow=1)]
        self.app.push_screen(Choose("Benchmark", rows, columns, current=self.bench or ALL), chosen)

    def action_primary(self, axis: str) -> None:
        """Let the chosen score lead here, on Compare and on the trade-off's axis."""
        if self.figure is None:
            return
        self.harness.set_primary(axis, self.figure.label)
        if self.harness.columns:
            # An order that the user made would hide the new lead.
            self.keep_columns([self.figure.key], self.harness.hidden)
        self.seen = self.harness.version
        self.show(self.scores)
        self.harness.tell(f"{self.figure.label} leads as the {axis} metric on every screen")

    def action_published(self) -> None:
        """Cycle through own scores, the paper's scores, and AlpacaEval's as well."""
        self.published = (self.published + 1) % 3
        words = ("own scores only", "with the paper's scores", "with AlpacaEval's leaderboard")
        self.notify(words[self.published], timeout=3, markup=False)
        self.rebuild()

    def _published(self) -> list[Score]:
        if not self.published:
            return []
        from kdharness.harness.analysis.published import alpaca_scores, paper_scores

        more = alpaca_scores(self.harness.paths) if self.published == 2 else []
        return [*paper_scores(), *more]

    def subject(self) -> str:
        """Return the checkpoint under the cursor; published scores have none."""
        row = self.listing().row
        name = str(row["id"]) if row else ""
        return name if self.harness.store.checkpoint(name) else ""

    def action_mark(self) -> None:
        """Mark the checkpoint for comparison."""
        row = self.listing().row
        if row is None:
            return
        name = str(row["id"])
        if self.harness.store.checkpoint(name) is None:
            self.notify(
                "published scores have no answers here: they cannot be compared",
                severity="warning",
                markup=False,
            )
        else:
            self.harness.toggle_selected(name)

    def selection_changed(self) -> None:
        """Mark what is selected."""
        self.listing().set_marks(self.harness.selection.names)

    def legend(self) -> Iterable[tuple[str, str]]:
        """Return what the symbols and flags mean."""
        return [*MARKS.items(), *LEGEND.items()]

    def export_rows(self) -> tuple[str, Sequence[dict[str, Any]], list[str]]:
        """Return the scores of the rows shown, in the format of `leaderboard --format json`."""
        rows = [score.as_dict() for row in self.listing().rows for score in row["scores"].values()]
        return "leaderboard", rows, list(SCORE_COLUMNS)
