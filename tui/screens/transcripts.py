"""Transcripts: one prompt, two answers side by side, and the judge's replies."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

from rich.markup import escape
from rich.text import Text
from textual.binding import Binding, BindingType
from textual.containers import Horizontal
from textual.widget import Widget
from textual.widgets import Static

from kdharness.harness.analysis.compared_with import texts_and_others
from kdharness.harness.analysis.tradeoff import DOMAIN_DEFAULTS
from kdharness.harness.util.atomic import atomic_write_text
from kdharness.harness.util.text import figure, safe_text
from kdharness.tui.screens.base import PlaceScreen
from kdharness.tui.screens.dialogs import Choose
from kdharness.tui.screens.labelling import NO_PROMPT, LabelScreen
from kdharness.tui.screens.panes import WIDE
from kdharness.tui.viewmodels.rows import Column, Part, Row, text_lines
from kdharness.tui.viewmodels.transcripts import (
    Exchange,
    Transcript,
    answer_lines,
    as_text,
    benches_of,
    other_lines,
    read_transcript,
    shown_mean,
    verdict_lines,
)
from kdharness.tui.widgets.text_view import TextView

if TYPE_CHECKING:
    from kdharness.harness.store import Store


class TranscriptsScreen(PlaceScreen):
    """Two checkpoints' answers, item by item."""

    place = "transcripts"
    title_text = "Transcripts"
    shows_pair = True
    about = (
        "The prompt, both answers (scrolling together), and the judge's reply to each. Words that "
        "only one answer has are highlighted. {texts.before:←}{texts.next:→} go from item to "
        "item; {texts.difference:d} to the next with different verdicts, {texts.failure:f} to the "
        "next failure; {texts.items:l} lists the items. {texts.checkpoints:c} chooses the "
        "checkpoints, {app.swap:x} swaps them, {texts.bench:b} the benchmark. What the answers "
        "were compared with, a baseline's answer or the reference, is beside them in a wide "
        "terminal; {texts.others:o} shows and hides it. {texts.verdicts:v} gives the verdicts "
        "more room. {texts.copy:y} copies the exchange to the clipboard, {texts.write:w} writes "
        "it to a file. {texts.label:L} asks you to rate or compare these checkpoints' answers, "
        "without names and verdicts: your labels correct the judge's scores."
    )
    BINDINGS: ClassVar[list[BindingType]] = [
        Binding("left", "step(-1)", "Previous", show=False, id="texts.before"),
        Binding("right", "step(1)", "Next", show=False, id="texts.next"),
        Binding("d", "jump('differs')", "Next diff", id="texts.difference"),
        Binding("f", "jump('failed')", "Next failure", id="texts.failure"),
        Binding("l", "items", "Items", id="texts.items"),
        Binding("c", "choose", "Choose", id="texts.checkpoints"),
        Binding("b", "bench", "Benchmark", id="texts.bench"),
        Binding("L", "label", "Label", id="texts.label"),
        Binding("o", "others", "Compared with", id="texts.others"),
        Binding("v", "verdicts", "Verdicts", show=False, id="texts.verdicts"),
        Binding("y", "copy", "Copy", show=False, id="texts.copy"),
        Binding("w", "write", "Write", show=False, id="texts.write"),
        Binding(
            "right_square_bracket",
            "other(1)",
            "Next",
            key_display="]",
            show=False,
            id="texts.other",
        ),
        Binding(
            "left_square_bracket",
            "other(-1)",
            "Previous",
            key_display="[",
            show=False,
            id="texts.other-before",
        ),
        Binding("tab", "swap_pane", "Other pane", show=False, id="texts.pane"),
    ]

    def __init__(self) -> None:
        super().__init__()
        self.names: tuple[str, str] = ("", "")
        self.bench = ""
        self.benches: list[str] = []
        self.transcript = Transcript("", ("", ""))
        self.index = 0
        self.wanted = ""
        self.asked = 0
        self.wants_others: bool | None = None

    def body(self) -> Iterable[Widget]:
        """Yield head, prompt, two answers and two verdicts."""
        yield Static(classes="line", id="what")
        yield TextView(id="prompt")
        with Horizontal(id="answers"):
            yield TextView(id="first").add_class("boxed")
            yield TextView(id="second").add_class("boxed")
            yield TextView(id="others").add_class("boxed")
        with Horizontal(id="verdicts"):
            yield TextView(id="first-verdict")
            yield TextView(id="second-verdict")
            yield Static(id="others-space")

    def on_mount(self) -> None:
        """Load the selected checkpoints, or the two newest that share scores."""
        self.seen = self.harness.version
        first, second = self.query_one("#first", TextView), self.query_one("#second", TextView)
        first.twin, second.twin = second, first
        first.focus()
        self._fit_others()
        self.follow_selection()

    def on_resize(self) -> None:
        """Show what answers were compared with where there is room."""
        self._fit_others()

    def _fit_others(self) -> None:
        """Show it beside the answers in a wide terminal, unless the user chose otherwise."""
        found = self.exchange is not None and bool(self.exchange.others)
        automatic = found and self.size.width >= WIDE
        shown = automatic if self.wants_others is None else self.wants_others
        # Each verdict stays below its answer.
        for part in ("#others", "#others-space"):
            self.query_one(part).display = shown

    def selection_changed(self) -> None:
        """Show the base and the other one, at the same item if they answered it."""
        shown = self.harness.compared()
        names = (shown.base, shown.other or shown.base)
        if names == self.names and self.asked:
            return
        if not self.wanted and self.exchange is not None:
            self.wanted = self.exchange.item
        self.names = names
        self.load()

    def open(self, bench: str, item: str = "") -> None:
        """Show a benchmark, at an item."""
        self.bench, self.wanted = bench, item
        if self.is_mounted:
            self.load()

    def store_changed(self) -> None:
        """Load again and keep the item, even one that is still being opened."""
        exchange = self.exchange
        if not self.wanted and exchange is not None:
            self.wanted = exchange.item
        self.load()

    def load(self) -> None:
        """Load answers, verdicts and prompts."""
        self.asked += 1
        names, wanted, paths, asked = self.names, self.bench, self.harness.paths, self.asked
        lead = self.harness.primary.get("domain", DOMAIN_DEFAULTS[0]).partition(":")[0]

        def work(store: Store) -> tuple[list[str], Transcript]:
            benches = benches_of(store, names)
            first = lead if lead in benches else next(iter(benches), "")
            bench = wanted if wanted in benches else first
            texts, others = texts_and_others(store, paths, bench, names, store.bench_notes())
            return benches, read_transcript(store, bench, names, texts.prompts, others)

        self.read(work, lambda found: self.show(asked, *found))

    def show(self, asked: int, benches: list[str], transcript: Transcript) -> None:
        """Show the result, unless something else has been requested since."""
        if asked != self.asked:
            return
        self.benches, self.bench = benches, transcript.bench
        same = self.transcript == transcript and not self.wanted
        self.transcript = transcript
        items = [exchange.item for exchange in transcript.exchanges]
        if self.wanted in items:
            self.index = items.index(self.wanted)
        self.wanted = ""
        self.index = max(0, min(self.index, len(items) - 1))
        if not same or not items:
            self._fill()

    # ------------------------------------------------------------ showing

    @property
    def exchange(self) -> Exchange | None:
        """The item that is shown."""
        exchanges = self.transcript.exchanges
        return exchanges[self.index] if self.index < len(exchanges) else None

    def _fill(self) -> None:
        self._fit_others()
        exchange = self.exchange
        text = Text(no_wrap=True, overflow="ellipsis")
        what = self.query_one("#what", Static)
        if exchange is None:
            none = "no answers yet: evaluate a checkpoint ({app.evaluate:6})"
            text.append(self.harness.with_keys(none))
            what.update(text)
            return
        text.append(f"{self.bench} {safe_text(exchange.item, 40)}", "bold")
        text.append(f"  {safe_text(exchange.category, 30)}")
        text.append(f"  {self.index + 1} of {len(self.transcript.exchanges)}")
        text.append(f"  {exchange.relation}")
        text.append("  ✗ failure" if exchange.failed else "")
        what.update(text)
        prompt = self.query_one("#prompt", TextView)
        lines = [
            line
            for n, turn in enumerate(exchange.turns, 1)
            for line in [[(f"{n}. ", "dim"), *text_lines(turn)[0]], *text_lines(turn)[1:]]
        ]
        prompt.set_lines(lines or [[(self.harness.with_keys(NO_PROMPT), "dim")]])
        height = self.size.height
        prompt.styles.height = min(len(lines) or 1, 3 if height < 30 else 8) or 1
        self.query_one("#verdicts").set_class(height >= 30, "roomy")
        for pane, name, side, other in (
            ("first", self.names[0], exchange.first, exchange.second),
            ("second", self.names[1], exchange.second, exchange.first),
        ):
            box = self.query_one(f"#{pane}", TextView)
            value = shown_mean(side.value)
            box.border_title = escape(safe_text(f"{name}  {value}", 60))
            box.set_lines(answer_lines(side, other))
            box.scroll_to(y=0, animate=False)
            self.query_one(f"#{pane}-verdict", TextView).set_lines(verdict_lines(side))
        beside = self.query_one("#others", TextView)
        beside.border_title = "compared with"
        beside.set_lines(other_lines(exchange) or [[("nothing to compare with", "dim")]])
        beside.scroll_to(y=0, animate=False)

    # ------------------------------------------------------------ actions

    def action_step(self, by: int) -> None:
        """Go to the next or previous item."""
        last = len(self.transcript.exchanges) - 1
        index = max(0, min(self.index + by, last))
        if index != self.index:
            self.index = index
            self._fill()

    def action_jump(self, kind: str) -> None:
        """Go to the next item with different verdicts, or with a failure."""
        matches: Callable[[Exchange], bool] = (
            (lambda e: e.differs) if kind == "differs" else (lambda e: e.failed)
        )
        exchanges = self.transcript.exchanges
        order = [*range(self.index + 1, len(exchanges)), *range(self.index + 1)]
        index = next((i for i in order if matches(exchanges[i])), None)
        if index is None:
            words = "no difference" if kind == "differs" else "no failure"
            self.notify(f"{words} in {self.bench}", timeout=3, markup=False)
        else:
            self.index = index
            self._fill()

    def action_items(self) -> None:
        """List all items."""
        rows = [
            {
                "id": e.item,
                "category": e.category,
                "first": e.first.value,
                "second": e.second.value,
                "marks": ("≠" if e.differs else " ") + ("✗" if e.failed else ""),
            }
            for e in self.transcript.exchanges
        ]
        columns = [
            Column("id", "item", 16, grow=1),
            Column("category", "category", 14),
            Column("marks", "", 2),
            Column("first", self.names[0][:9], 9, right=True),
            Column("second", self.names[1][:9], 9, right=True),
        ]

        def cell(row: Row, column: Column, width: int) -> list[Part]:
            value = row[column.key]
            number = column.key in ("first", "second")
            return [(figure(value, 3) if number else str(value), "")]

        def chosen(names: list[str] | None) -> None:
            if names:
                items = [e.item for e in self.transcript.exchanges]
                self.index = items.index(names[0])
                self._fill()

        current = self.exchange.item if self.exchange else ""
        self.app.push_screen(Choose("Items", rows, columns, cell=cell, current=current), chosen)

    def action_choose(self) -> None:
        """Let the user mark the checkpoints."""
        self.harness.action_select_checkpoints()

    def action_other(self, by: int) -> None:
        """Show another selected checkpoint beside the base."""
        self.harness.select(self.harness.compared().turned(by))

    def action_bench(self) -> None:
        """Choose a benchmark with answers."""

        def chosen(names: list[str] | None) -> None:
            if names:
                self.bench, self.index = names[0], 0
                self.load()

        rows = [{"id": name} for name in self.benches]
        columns = [Column("id", "benchmark", 30, grow=1)]
        self.app.push_screen(Choose("Benchmark", rows, columns, current=self.bench), chosen)

    def action_label(self) -> None:
        """Label answers of these checkpoints, blind; show the labels afterwards."""
        if self.bench:
            screen = LabelScreen(self.names, self.bench)
            self.app.push_screen(screen, lambda _: self.load())

    def action_verdicts(self) -> None:
        """Toggle more room for the verdicts."""
        self.query_one("#verdicts").toggle_class("tall")

    def action_others(self) -> None:
        """Show or hide the baseline's answer and the reference."""
        self.wants_others = not self.query_one("#others").display
        self._fit_others()

    def action_swap_pane(self) -> None:
        """Focus the next pane."""
        panes = ["first", "second", "others", "first-verdict", "second-verdict", "prompt"]
        panes = [pane for pane in panes if self.query_one(f"#{pane}").display]
        now = self.focused.id if self.focused is not None else ""
        index = panes.index(now) if now in panes else -1
        self.query_one(f"#{panes[(index + 1) % len(panes)]}").focus()

    def action_copy(self) -> None:
        """Copy the exchange to the clipboard if the terminal supports it."""
        if self.exchange is not None:
            self.app.copy_to_clipboard(as_text(self.exchange, self.transcript))
            text = "copied, if the terminal supports it; {texts.write:w} writes a file"
            self.notify(self.harness.with_keys(text), timeout=4)

    def action_write(self) -> None:
        """Write the exchange to a file."""
        exchange = self.exchange
        if exchange is None:
            return
        text = as_text(exchange, self.transcript)

        def write(path: Path) -> Any:
            atomic_write_text(path, text)

        self.harness.export_file(f"{self.bench}-{exchange.item}.md", (".md", ".txt"), write)
