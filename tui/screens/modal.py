"""What dialogs share: a way out beside them, and answers that can be clicked."""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar, cast

from rich.style import Style
from rich.text import Text
from textual import events
from textual.screen import ModalScreen, ScreenResultType
from textual.widgets import Input

from kdharness.tui.widgets.bars import clicked

if TYPE_CHECKING:
    from kdharness.tui.protocol import AppProtocol


class Modal(ModalScreen[ScreenResultType]):
    """A screen over another one."""

    CSS_PATH = "screens.tcss"

    def with_keys(self, text: str) -> str:
        """Return a text with the keys that the settings give to the actions it names."""
        return cast("AppProtocol", self.app).with_keys(text)


class Dialog(Modal[ScreenResultType]):
    """A dialog that a click beside it closes, unless something is being typed."""

    LEAVE: ClassVar[str] = "dismiss(None)"
    """The action of Esc."""

    def on_click(self, event: events.Click) -> None:
        """Leave if the click is not on the dialog."""
        if event.widget is self and not isinstance(self.focused, Input):
            # Not here: a screen that waited for its own removal would wait for ever.
            self.app.call_later(self.run_action, self.LEAVE)


def clickable_key(key: str, label: str, action: str, style: str = "bold reverse") -> Text:
    """Return a key and what it does; a click on either runs the screen's action."""
    click = clicked(f"screen.{action}")
    text = Text()
    text.append(f" {key} ", Style.parse(style) + click)
    text.append(f" {label}", click)
    return text
