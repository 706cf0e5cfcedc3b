"""The answer on top of a screen of scores, and the retention it asks for."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, ClassVar

from rich.text import Text
from textual.binding import Binding, BindingType
from textual.widgets import Static

from kdharness.harness.util.text import safe_text
from kdharness.tui.screens.base import PlaceScreen
from kdharness.tui.screens.dialogs import Ask
from kdharness.tui.settings import MOST_KEPT
from kdharness.tui.widgets.table import Listing

if TYPE_CHECKING:
    from kdharness.tui.viewmodels.answers import Answered

SHORT = 20
"""Rows below which a terminal shows only who it is, not what that rests on."""


class Answering(PlaceScreen):
    """A screen that opens with the answer; K asks for another retention."""

    BINDINGS: ClassVar[list[BindingType]] = [
        Binding("K", "keep", "Retention", show=False, id="answer.keep"),
    ]
    answered: Answered | None = None

    def load(self) -> None:
        """Read scores and answer; the screen implements it."""

    def answer_line(self) -> Static:
        """Return the widget of the answer."""
        return Static("…", id="answer", classes="answer")

    def show_answer(self, answered: Answered) -> None:
        """Show an answer."""
        self.answered = answered
        self.paint_answer()

    def paint_answer(self) -> None:
        """Write the answer as far as the screen has room for it."""
        if self.answered is None:
            return
        answer = self.answered.answer
        text = Text()
        text.append(safe_text(answer.who, 1000), "bold")
        if answer.basis and self.size.height >= SHORT:
            dim = self.query_one("#list", Listing).style_of("dim")
            text.append(f" {safe_text(answer.basis, 1000)}", dim)
        self.query_one("#answer", Static).update(text)

    def on_resize(self) -> None:
        """Show what the answer rests on where there is room."""
        self.paint_answer()

    def action_keep(self) -> None:
        """Ask which share of the general score must be retained."""

        def take(text: str | None) -> None:
            keep = share_of(text or "")
            if keep is not None:
                self.harness.set_keep(keep)
                self.seen = self.harness.version
                self.load()

        self.app.push_screen(
            Ask(
                "Retention",
                f"{self.harness.keep:g}",
                "The share of the reference's general score that the answer asks for: 0.95 or 95 %",
                lambda text: "" if share_of(text) is not None else "a share such as 0.95 or 95 %",
            ),
            take,
        )


def share_of(text: str) -> float | None:
    """Return a typed share, as a fraction or in percent; None if it is not one."""
    text = text.strip()
    try:
        value = float(text.removesuffix("%").strip()) / (100 if text.endswith("%") else 1)
    except ValueError:
        return None
    return value if math.isfinite(value) and 0 <= value <= MOST_KEPT else None
