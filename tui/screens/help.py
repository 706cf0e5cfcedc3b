"""Help: a screen's description and all of its keys."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, ClassVar

from rich.text import Text
from textual.app import ComposeResult
from textual.binding import ActiveBinding, Binding, BindingType
from textual.containers import Vertical, VerticalScroll
from textual.screen import ModalScreen, Screen
from textual.widgets import Static

KeyLine = tuple[str, str, str]
"""Key, description, and the name of the action in `settings.yaml`."""


class TextDialog(ModalScreen[None]):
    """A page of text on top of the screen."""

    CSS_PATH = "screens.tcss"
    BINDINGS: ClassVar[list[BindingType]] = [
        Binding("escape,q,f1,enter", "dismiss(None)", "Close", id="dialog.close"),
    ]

    def __init__(self, title: str, text: Text) -> None:
        super().__init__()
        self.heading, self.text = title, text

    def compose(self) -> ComposeResult:
        """Yield a scrollable frame with the text."""
        with Vertical(classes="dialog wide") as frame:
            frame.border_title = Text(self.heading).plain
            frame.border_subtitle = "Esc closes, ↑↓ scroll"
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


def help_text(about: str, keys: Sequence[KeyLine]) -> Text:
    """Return the help page of a screen."""
    text = Text(f"{about}\n\n" if about else "")
    for key, what, name in keys:
        text.append(f"{key:>12}  ", "bold")
        text.append(f"{what:<26}")
        text.append(f"  {name}\n", "dim")
    text.append("\nKeys can be changed in settings.yaml:  keys: {name: key}", "dim")
    return text
