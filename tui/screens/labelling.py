"""Blind labelling: rate or compare answers, without names and verdicts."""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar, cast

from rich.text import Text
from textual.app import ComposeResult
from textual.binding import Binding, BindingType
from textual.containers import Horizontal
from textual.screen import ModalScreen
from textual.widgets import Static

from kdharness.harness import store as stores
from kdharness.harness.analysis.label_design import label_queue
from kdharness.harness.analysis.labelling import (
    PAIR,
    PAIR_KEYS,
    RATING_KEYS,
    SKIP,
    UNDO,
    LabelSession,
    label_tasks,
    prompt_of,
    user_name,
)
from kdharness.harness.analysis.prompts import BenchTexts, label_texts
from kdharness.harness.util.text import safe_text
from kdharness.tui.viewmodels.rows import Line, text_lines
from kdharness.tui.widgets.bars import KeyBar
from kdharness.tui.widgets.text_view import TextView

if TYPE_CHECKING:
    from kdharness.tui.protocol import AppProtocol

COUNT = 20
"""Answers that are asked for at a time."""
NO_PROMPT = "prompt not available: pull the benchmark's files ({app.assets:8})"


class LabelScreen(ModalScreen[None]):
    """Asks for labels of two checkpoints' answers, in random order; each is stored at once."""

    CSS_PATH = "screens.tcss"
    BINDINGS: ClassVar[list[BindingType]] = [
        *(
            Binding(key, f"label('{key}')", "", show=False, id=f"label.{key}")
            for key in RATING_KEYS
        ),
        *(Binding(key, f"label('{key}')", "", show=False, id=f"label.{key}") for key in PAIR_KEYS),
        Binding(SKIP, f"label('{SKIP}')", "Skip", id="label.skip"),
        Binding(UNDO, f"label('{UNDO}')", "Undo", id="label.undo"),
        Binding("tab", "swap_pane", "Other pane", show=False, id="label.pane"),
        Binding("escape", "leave", "Leave", id="label.leave"),
        Binding("q,L", "leave", "Leave", show=False, id="label.close"),
    ]

    def __init__(self, names: tuple[str, str], bench: str) -> None:
        super().__init__()
        self.names, self.bench = names, bench
        self.session = LabelSession((), user_name())
        self.texts = BenchTexts()
        self.loaded = False

    @property
    def harness(self) -> AppProtocol:
        """The app, typed as its protocol."""
        return cast("AppProtocol", self.app)

    def compose(self) -> ComposeResult:
        """Yield head, prompt, and one or two answers."""
        yield Static(classes="line", id="what")
        yield TextView(id="prompt")
        with Horizontal(id="answers"):
            yield TextView(id="first").add_class("boxed")
            yield TextView(id="second").add_class("boxed")
        yield KeyBar()

    def on_mount(self) -> None:
        """Read what can be labelled."""
        paths, now = self.harness.paths, self.harness.now()

        def work() -> tuple[LabelSession, BenchTexts]:
            with stores.Store(paths.store) as store:
                found = [store.checkpoint(name) for name in dict.fromkeys(self.names)]
                checkpoints = [c for c in found if c is not None]
                texts = label_texts(paths, self.bench, store.bench_notes())
                tasks = label_tasks(store, self.bench, checkpoints, texts)
                session = self.session
                queue = label_queue(store, self.bench, tasks, session.labeller, session.seed, now)
                session.tasks, session.design = queue.tasks[:COUNT], queue.design
                return session, texts

        self._fill()
        self.harness.in_thread(work, self._show)

    def _show(self, found: object) -> None:
        self.session, self.texts = cast("tuple[LabelSession, BenchTexts]", found)
        self.loaded = True
        if self.is_attached:
            self._fill()

    def _fill(self) -> None:
        task, session = self.session.task, self.session
        second = self.query_one("#second", TextView)
        second.display = task is not None and task.metric == PAIR
        views = [self.query_one("#first", TextView), second]
        for view in views:
            view.border_title = ""
            view.set_lines([])
        prompt: list[Line] = []
        if task is not None:
            turns = prompt_of(task, self.texts)
            prompt = [line for turn in turns for line in text_lines(turn)]
            prompt = prompt or [[(self.harness.with_keys(NO_PROMPT), "dim")]]
            self._fill_answers(views)
            views[0].focus()
        view = self.query_one("#prompt", TextView)
        view.set_lines(prompt)
        view.styles.height = max(1, min(len(prompt), 4 if self.size.height < 30 else 12))
        self.query_one("#what", Static).update(self._head())
        self.title = session.progress

    def _fill_answers(self, views: list[TextView]) -> None:
        """Show the answers, the earlier turns above each of them."""
        parts = self.session.texts()
        count = 1 if self.session.task is None or self.session.task.metric != PAIR else 2
        earlier: list[Line] = []
        for heading, text in parts[:-count]:
            earlier += [[(heading, "strong")], *text_lines(text), []]
        for view, (heading, text) in zip(views, parts[-count:], strict=False):
            view.border_title = heading
            view.set_lines([*earlier, *text_lines(text)])
            view.scroll_to(y=0, animate=False)

    def _head(self) -> Text:
        session, task = self.session, self.session.task
        text = Text(no_wrap=True, overflow="ellipsis")
        if task is None:
            words = "nothing is left to label" if self.loaded else "reading …"
            if session.tasks:
                keys = self.harness.with_keys(
                    "{label.leave:Esc} leaves, {label.undo:u} undoes the last"
                )
                words = f"{len(session.given)} labels stored: {keys}"
            text.append(words, "bold")
            return text
        text.append(f"{session.progress}  ", "bold")
        text.append(session.keys, "bold")
        item = f"  {safe_text(self.bench, 30)} {safe_text(task.answer.item, 30)}"
        text.append(f"{item}, turn {task.answer.turn}")
        return text

    # ------------------------------------------------------------ actions

    def action_label(self, key: str) -> None:
        """Store the label of the key that was pressed, and go on."""
        before = self.session.index
        label = self.session.press(key, self.harness.now())
        if label is not None:
            self.harness.store.add_labels([label])
        if self.session.index != before:
            self._fill()

    def action_swap_pane(self) -> None:
        """Focus the other pane."""
        panes = [p for p in ("first", "second", "prompt") if self.query_one(f"#{p}").display]
        now = self.focused.id if self.focused is not None else ""
        index = panes.index(now) if now in panes else -1
        self.query_one(f"#{panes[(index + 1) % len(panes)]}").focus()

    def action_leave(self) -> None:
        """Leave; every label is stored."""
        self.dismiss(None)
