"""The input line of a form."""

from __future__ import annotations

from typing import ClassVar

from textual import events
from textual.binding import Binding, BindingType
from textual.widgets import Input

from kdharness.tui.widgets.form_sheet import FormSheet


class EditLine(Input):
    """The input line of a form. Keys that follow Enter at once are not typed into it."""

    BINDINGS: ClassVar[list[BindingType]] = [
        Binding("enter", "submit", "Set", id="edit.set"),
        Binding("escape", "app.back", "Undo", key_display="Esc", id="edit.undo"),
    ]
    closing = False

    def _on_focus(self, event: events.Focus) -> None:
        self.closing = False

    async def _on_key(self, event: events.Key) -> None:
        """Pass keys on once Enter was pressed: its action comes only after they have arrived."""
        if event.key == "enter":
            self.closing = True
        elif self.closing:
            event.stop()
            event.prevent_default()
            self.app.post_message(events.Key(event.key, event.character))

    async def action_submit(self) -> None:
        """Submit, and give the focus back at once."""
        await super().action_submit()
        self.screen.set_focus(self.screen.query_one(FormSheet))
