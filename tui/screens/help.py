"""Help: a screen's description and all of its keys."""

from __future__ import annotations

import inspect
from collections.abc import Iterable, Sequence
from typing import Any, ClassVar

from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text
from textual.app import ComposeResult
from textual.binding import ActiveBinding, Binding, BindingType
from textual.containers import Vertical, VerticalScroll
from textual.screen import Screen
from textual.widgets import Static

from kdharness.tui.screens.modal import Dialog

KeyLine = tuple[str, str, str]
"""Key, description, and the name of the action in `settings.yaml`."""


class TextDialog(Dialog[None]):
    """A page of text on top of the screen."""

    BINDINGS: ClassVar[list[BindingType]] = [
        Binding("escape,q,f1,question_mark,enter", "dismiss(None)", "Close", id="dialog.close"),
    ]

    def __init__(self, title: str, text: RenderableType) -> None:
        super().__init__()
        self.heading, self.text = title, text

    def compose(self) -> ComposeResult:
        """Yield a scrollable frame with the text."""
        with Vertical(classes="dialog wide") as frame:
            frame.border_title = Text(self.heading).plain
            frame.border_subtitle = self.with_keys("↑↓ scroll · {dialog.close:Esc} close")
            with VerticalScroll():
                yield Static(self.text)

    def on_mount(self) -> None:
        """Focus the text, so that arrow keys scroll it."""
        self.query_one(VerticalScroll).focus()


def key_lines(screen: Screen[Any]) -> list[tuple[KeyLine, ActiveBinding]]:
    """Return one line per action of a screen: the screen's own first, the app's last."""
    app = screen.app
    actions: dict[tuple[str, str], tuple[list[str], ActiveBinding]] = {}
    for active in screen.active_bindings.values():
        binding = active.binding
        if not active.enabled or not binding.description or not binding.id:
            continue
        key = app.get_key_display(binding)
        keys, _ = actions.setdefault((binding.description, binding.action), ([], active))
        if key not in keys:
            keys.append(key)

    def order(pair: tuple[list[str], ActiveBinding]) -> int:
        node = pair[1].node
        return 0 if node is screen else 2 if node is app else 1

    return [
        ((" ".join(keys), active.binding.description, active.binding.id or ""), active)
        for keys, active in sorted(actions.values(), key=order)
    ]


def help_text(
    about: str, keys: Sequence[tuple[KeyLine, ActiveBinding]], legend: Iterable[tuple[str, str]]
) -> Group:
    """Return the help page of a screen: what it is, its symbols, and what its keys do."""
    symbols, actions = _columns(2), _columns(3)
    for symbol, meaning in legend:
        symbols.add_row(symbol, meaning)
    names = []
    for (key, what, name), active in keys:
        actions.add_row(key, what, Text(action_words(active), "dim"))
        names.append(f"{name}: {key.split()[0]}")
    above: list[RenderableType] = [Text(f"{about}\n")] if about else []
    above += [symbols, Text()] if symbols.rows else []
    return Group(
        *above,
        actions,
        Text("\nKeys can be changed in settings.yaml, under keys:", "bold"),
        Text(", ".join(names), "dim"),
    )


def _columns(count: int) -> Table:
    """Return a table without lines, whose long texts wrap within their column."""
    table = Table.grid(padding=(0, 2))
    table.add_column(style="bold", justify="right", no_wrap=True)
    for _ in range(count - 2):
        table.add_column(no_wrap=True)
    table.add_column()
    return table


def action_words(active: ActiveBinding) -> str:
    """Return what an action does: the first line of its documentation."""
    name = active.binding.action.partition("(")[0]
    node, _, action = name.rpartition(".")
    owner = active.node.screen if node == "screen" else active.node
    method = getattr(owner, f"action_{action}", None)
    return (inspect.getdoc(method) or "").partition("\n")[0] if method else ""
