"""Compare: differences between two to four checkpoints in scores, configs and answers."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from functools import partial
from typing import TYPE_CHECKING, Any, ClassVar

from rich.text import Text
from textual import on
from textual.binding import Binding, BindingType
from textual.widget import Widget
from textual.widgets import Static

from kdharness.harness.analysis.costs import TITLES
from kdharness.harness.stats.metric_specs import CATEGORY
from kdharness.harness.util.text import figure, safe_text
from kdharness.tui.screens.base import ListPlace
from kdharness.tui.viewmodels.compare import (
    WORDS,
    CompareView,
    Line,
    finite_ends,
    flip_rows,
    line_order,
    load,
    load_profile,
    p_words,
    verdict,
)
from kdharness.tui.viewmodels.forgetting import profile_page
from kdharness.tui.viewmodels.form import text_of
from kdharness.tui.viewmodels.marks import interval_text
from kdharness.tui.viewmodels.rows import Column, Part, Row
from kdharness.tui.widgets.table import Listing

if TYPE_CHECKING:
    from kdharness.harness.analysis.forgetting import Profile
    from kdharness.harness.store import Store

LETTERS = "ABCD"
TABS = (
    ("f", "figures", "Scores"),
    ("l", "flips", "Flips"),
    ("g", "config", "Config"),
    ("o", "cost", "Cost"),
    ("p", "profile", "Profile"),
)


class CompareScreen(ListPlace):
    """The first checkpoint is the base; differences are others minus base."""

    place = "compare"
    title_text = "Compare"
    shows_pair = True
    about = (
        "The checkpoints that are marked on any screen, or else the newest two that share a "
        "scored benchmark. A is the base; {app.swap:x} swaps A and the other one. Each row shows "
        "the paired difference to A on the items both answered, with its 95 % interval around "
        "zero, on one scale per benchmark and judge: ▲ better, ▼ worse, ≈ no significant "
        "difference, △ ▽ not significant once p is corrected (Holm) for all scores of the "
        "benchmark shown here. {compare.previous:[} and {compare.next:]} choose which checkpoint "
        "is drawn. {compare.flips:l} lists the items whose verdict changed, {list.open:Enter} "
        "opens their answers; {compare.config:g} shows the differences between configs; "
        "{compare.cost:o} the cost of each checkpoint and its ancestors; {compare.profile:p} what "
        "it lost beside the domain; {compare.curves:u} the training curves."
    )
    BINDINGS: ClassVar[list[BindingType]] = [
        Binding("c", "choose", "Choose", id="compare.choose"),
        # The key bar has no room for more pages at 80 columns; the line above shows them, too.
        *(
            Binding(key, f"tab('{name}')", title, id=f"compare.{name}", show=place < 3)
            for place, (key, name, title) in enumerate(TABS)
        ),
        Binding("u", "curves", "Curves", id="compare.curves"),
        Binding(
            "right_square_bracket",
            "other(1)",
            "Next",
            key_display="]",
            show=False,
            id="compare.next",
        ),
        Binding(
            "left_square_bracket",
            "other(-1)",
            "Previous",
            key_display="[",
            show=False,
            id="compare.previous",
        ),
    ]

    def __init__(self) -> None:
        super().__init__()
        self.names: list[str] = []
        self.found = CompareView()
        self.profile: Profile | None = None
        self.other = 0
        self.tab = "figures"
        self.scale: dict[str, float] = {}

    def body(self) -> Iterable[Widget]:
        """Yield the compared checkpoints, and one listing for the current page."""
        yield Static(classes="head", id="what")
        empty = "press {compare.choose:c} to choose two to four checkpoints"
        yield Listing([], self.cell, id="list", empty=self.harness.with_keys(empty), waiting="")
        yield Static(classes="detail", id="more")

    def on_mount(self) -> None:
        """Compare the selected checkpoints, or else the newest two that share scores."""
        super().on_mount()
        self.seen = self.harness.version
        self.follow_selection()

    def selection_changed(self) -> None:
        """Compare what is selected; choosing another of the same ones needs no new data."""
        shown = self.harness.compared()
        same = list(shown.names) == self.names
        self.names, self.other = list(shown.names), shown.at - 1
        if same and shown.is_pair:
            self._fill()
            return
        self.found = CompareView()
        if shown.is_pair:
            self.listing().empty = "pairing the judgments …"
            self.load(list(self.names))
        else:
            empty = "no two checkpoints share a scored benchmark: evaluate some ({app.evaluate:6})"
            self.listing().empty = self.harness.with_keys(empty)
        self._fill()

    def store_changed(self) -> None:
        """Load again: there may be new judgments, or a pair that shares them."""
        if len(self.names) >= 2:
            self.load(list(self.names))
        else:
            self.selection_changed()

    def load(self, names: list[str]) -> None:
        """Compute the comparison in a thread: bootstrap and sign flips are slow."""
        paths = self.harness.paths

        def work(store: Store) -> CompareView:
            return load(store, paths, names)

        self.read(work, lambda found: self.show(names, found))

    def show(self, names: list[str], found: CompareView) -> None:
        """Show a result, if it is still the requested one."""
        if names == self.names:
            self.found, self.profile = found, None
            self.listing().empty = "no items that both were judged on"
            self._fill()

    # ------------------------------------------------------------ showing

    @property
    def chosen(self) -> str:
        """The checkpoint that is compared with the base."""
        return self.names[1 + self.other] if len(self.names) > 1 else ""

    def _fill(self) -> None:
        text = Text(no_wrap=True, overflow="ellipsis")
        listing = self.listing()
        for letter, name in zip(LETTERS, self.names, strict=False):
            style = listing.style_of("active") if name == self.chosen else "bold"
            text.append(f" {letter} ", "bold")
            text.append(safe_text(name, 30), style)
            text.append(" (base)  " if letter == "A" else "  ")
        text.append("\n")
        for key, tab, title in TABS:
            text.append(f" {key} ", "bold")
            text.append(title, listing.style_of("active") if tab == self.tab else "")
        self.query_one("#what", Static).update(text)
        columns, rows = {
            "figures": self._figures,
            "flips": self._flips,
            "config": self._config,
            "cost": self._cost,
            "profile": self._profile,
        }[self.tab]()
        listing.set_columns(columns)
        listing.sort_key = None
        listing.set_rows(rows)
        listing.refresh()
        self._tell(listing.row)

    def _figures(self) -> tuple[list[Column], list[dict[str, object]]]:
        rows = []
        self.scale = {}
        lead = list(self.harness.primary.values())
        lines = sorted(self.found.lines, key=lambda line: line_order(line, lead))
        for line in lines:
            pair = line.others.get(self.chosen)
            gap = pair.gap if pair else None
            row: dict[str, object] = {
                "id": f"{line.bench}:{line.metric}:{line.judge}:{line.revision}",
                "bench": line.bench,
                "metric": line.metric.replace(CATEGORY, ""),
                "base": line.value,
                "value": pair.other_value if pair else None,
                "line": line,
                "difference": gap.value if gap else None,
                "p": pair.p_holm if pair else None,
            }
            if gap:
                reach = max(abs(end) for end in finite_ends(gap))
                kind = f"{line.bench}:{line.judge}"
                self.scale[kind] = max(self.scale.get(kind, 0.0), reach)
            for letter, name in zip(LETTERS[1:], self.names[1:], strict=False):
                other = line.others.get(name)
                row[letter] = other.gap.value if other else None
            rows.append(row)
        columns = [
            Column("bench", "benchmark", 10, leave=2),
            Column("metric", "metric", 14, grow=1),
            Column("base", "A", 7, right=True),
            Column("value", LETTERS[1 + self.other], 7, right=True, leave=3),
            *(
                Column(letter, f"{letter} − A", 8, right=True)
                for letter, _ in zip(LETTERS[1:], self.names[1:], strict=False)
            ),
            Column("bar", "95 % interval", 16, grow=2),
            Column("p", "p Holm", 6, right=True),
            Column("n", "n", 4, right=True, leave=1),
        ]
        return columns, rows

    def _flips(self) -> tuple[list[Column], list[dict[str, object]]]:
        sides, other = self.found.sides, 1 + self.other
        rows = flip_rows(sides[0], sides[other]) if len(sides) > other else []
        columns = [
            Column("flip", "", 2),
            Column("bench", "benchmark", 13),
            Column("item", "item", 12, grow=1),
            Column("category", "category", 12, grow=1),
            Column("first", "A", 7, right=True),
            Column("second", LETTERS[1 + self.other], 7, right=True),
            Column("move", "move", 7, right=True),
        ]
        return columns, rows

    def _config(self) -> tuple[list[Column], list[dict[str, object]]]:
        return self._beside(
            "field",
            [
                (name, [text_of(value) if value is not None else "–" for value in values])
                for name, values in self.found.settings
            ],
        )

    def _cost(self) -> tuple[list[Column], list[dict[str, object]]]:
        texts = [cost.texts() for cost in self.found.costs]
        return self._beside(
            "cost",
            [(title, [text[key] for text in texts]) for key, title in TITLES.items()]
            if texts
            else [],
        )

    def _profile(self) -> tuple[list[Column], list[dict[str, object]]]:
        found = self.found
        if self.profile is None and found.sides:
            work = partial(load_profile, found=found)
            self.read(work, partial(self.show_profile, found), what="profile")
        return profile_page(self.profile, self.chosen, LETTERS[1 + self.other])

    def show_profile(self, found: CompareView, profile: Profile) -> None:
        """Show a profile, if it is of what is compared now and its page is still open."""
        if found is self.found:
            self.profile = profile
            if self.tab == "profile":
                self._fill()

    def _beside(
        self, title: str, fields: Sequence[tuple[str, Sequence[str]]]
    ) -> tuple[list[Column], list[dict[str, Any]]]:
        """Return one column per checkpoint and one row per field."""
        rows = [
            {"id": name, "field": name, **dict(zip(LETTERS, values, strict=False))}
            for name, values in fields
        ]
        columns = [
            Column("field", title, 24, grow=1),
            *(
                Column(letter, f"{letter} {name}", 14, grow=1)
                for letter, name in zip(LETTERS, self.names, strict=False)
            ),
        ]
        return columns, rows

    def cell(self, row: Row, column: Column, width: int) -> list[Part]:
        """Return the parts of one cell of the current page."""
        key = column.key
        value = row.get(key)
        if key == "bar":
            return self._bar(row, width)
        if key == "n":
            pair = row["line"].others.get(self.chosen)
            return [(str(pair.gap.n) if pair else "", "dim")]
        if key == "p":
            text = "" if value is None else f"{value:.3f}" if value >= 0.0005 else "<.001"
            return [(text, "dim")]
        if key == "flip":
            better = row["move"] > 0
            return [("" if not value else "▲" if better else "▼", "good" if better else "bad")]
        if key == "change":
            return [(str(value), str(row["role"]))]
        if isinstance(value, float):
            signed = key == "move" or (key in "BCD" and self.tab == "figures")
            return [(f"{'+' if signed and value > 0 else ''}{figure(value, 3)}", "")]
        return [("" if value is None else str(value), "dim" if key == "bench" else "")]

    def _bar(self, row: Row, width: int) -> list[Part]:
        line: Line = row["line"]
        pair = line.others.get(self.chosen)
        if pair is None:
            return [("", "")]
        gap = pair.gap
        reach = self.scale.get(f"{line.bench}:{line.judge}") or 1.0
        low, high = finite_ends(gap)
        text = interval_text(low, gap.value, high, -reach, reach, width - 2, zero=0.0)
        mark, role = verdict(pair)
        return [(text, role), (f" {mark}", role)]

    def _tell(self, row: Row | None) -> None:
        more = self.query_one("#more", Static)
        more.display = row is not None and self.tab == "figures"
        if row is None or self.tab != "figures":
            return
        line: Line = row["line"]
        pair = line.others.get(self.chosen)
        if pair is None:
            more.update("")
            return
        gap, (mark, _) = pair.gap, verdict(pair)
        need = (
            f"; needs about {gap.n_needed:,} items to detect (80 % power)"
            if (mark in "≈△▽" and gap.n_needed and gap.n_needed > gap.n)
            else ""
        )
        ends = (
            "(too few items for an interval)"
            if gap.low is None
            else ("[{:+z.4g}, {:+z.4g}]".format(*finite_ends(gap)))
        )
        more.update(
            Text(
                safe_text(
                    f"{self.chosen} is {WORDS[mark]} on {line.bench} {line.metric}: "
                    f"{gap.value:+z.4g} {ends}, {p_words(pair)}, n {gap.n}{need} "
                    f"· judge {line.judge}"
                )
            )
        )

    # ------------------------------------------------------------ actions

    @on(Listing.Highlighted, "#list")
    def _moved(self, event: Listing.Highlighted) -> None:
        self._tell(event.row)

    @on(Listing.Selected, "#list")
    async def _open(self, event: Listing.Selected) -> None:
        row = event.row
        if row is not None and self.tab in ("figures", "flips"):
            item = str(row["item"]) if self.tab == "flips" else ""
            await self.harness.open_transcripts(self.names[0], self.chosen, str(row["bench"]), item)

    def action_tab(self, name: str) -> None:
        """Switch to another page."""
        self.tab = name
        self.listing().cursor = 0
        self._fill()

    def action_other(self, by: int) -> None:
        """Compare another checkpoint with the base."""
        self.harness.select(self.harness.compared().turned(by))

    def action_choose(self) -> None:
        """Let the user mark two to four checkpoints; the first one is the base."""
        self.harness.action_select_checkpoints()

    def action_curves(self) -> None:
        """Open the runs' curves, overlaid."""
        store = self.harness.store
        runs = [c.run for name in self.names if (c := store.checkpoint(name)) and c.run]
        if runs:
            self.harness.select(self.harness.compared())
            self.harness.open_run(runs[0])
        else:
            self.notify("none of these was trained here", timeout=3, markup=False)
