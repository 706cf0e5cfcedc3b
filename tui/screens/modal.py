"""What dialogs share: a way out beside them, and answers that can be clicked."""

from __future__ import annotations

from rich.style import Style
from rich.text import Text
from textual import events
from textual.screen import ModalScreen, ScreenResultType


class Dialog(ModalScreen[ScreenResultType]):
    """A dialog in which nothing is typed: a click beside it does what Esc does."""

    CSS_PATH = "screens.tcss"

    def on_click(self, event: events.Click) -> None:
        """Leave if the click is not on the dialog."""
        if event.widget is self:
            # Sent by the screen itself, the key would not bubble up to it.
            self.app.call_later(self.app.simulate_key, "escape")


def clickable_key(key: str, label: str, style: str = "bold reverse") -> Text:
    """Return a key and what it does; a click on either presses the key."""
    click = Style.from_meta({"@click": f"app.simulate_key('{key}')"})
    text = Text()
    text.append(f" {key} ", Style.parse(style) + click)
    text.append(f" {label}", click)
    return text
