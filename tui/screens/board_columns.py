"""The leaderboard's columns as the user orders and hides them, kept in the settings."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import ClassVar

from textual.binding import Binding, BindingType

from kdharness.tui.screens.dialogs import Choose
from kdharness.tui.screens.panes import PanedPlace
from kdharness.tui.viewmodels.leaderboard import Board, Figure, arranged
from kdharness.tui.viewmodels.rows import Column


class BoardColumns(PanedPlace):
    """A board whose columns move, hide and come back."""

    BINDINGS: ClassVar[list[BindingType]] = [
        Binding("C", "columns", "Columns", show=False, id="board.columns"),
        Binding(
            "less_than_sign,comma",
            "shift(-1)",
            "Column to the left",
            key_display="<",
            show=False,
            id="board.shift-left",
        ),
        Binding(
            "greater_than_sign,full_stop",
            "shift(1)",
            "Column to the right",
            key_display=">",
            show=False,
            id="board.shift-right",
        ),
        Binding("minus", "hide", "Hide the column", key_display="-", show=False, id="board.hide"),
    ]
    board: Board
    figures: list[Figure]
    figure: Figure | None

    def rebuild(self) -> None:
        """Build columns and rows; the screen implements it."""

    def arrange_columns(self) -> None:
        """Order and hide the columns of a board."""
        app = self.harness
        self.figures = arranged(self.board.figures, app.columns, app.hidden)

    def columns_told(self) -> str:
        """Return which column is chosen, and how many are hidden."""
        if self.figure not in self.figures:
            return ""
        hidden = len(self.board.figures) - len(self.figures)
        told = f"column {self.figures.index(self.figure) + 1} of {len(self.figures)}"
        key = self.harness.with_keys("{board.columns:C}")
        return told + (f", {hidden} hidden ({key})" if hidden else "")

    def action_shift(self, by: int) -> None:
        """Move the chosen column to the left or right."""
        keys = [figure.key for figure in self.figures]
        if self.figure is None or self.figure.key not in keys:
            return
        at = keys.index(self.figure.key)
        to = at + by
        if 0 <= to < len(keys):
            keys[at], keys[to] = keys[to], keys[at]
            self.keep_columns(keys, self.harness.hidden)

    def action_hide(self) -> None:
        """Hide the chosen column; the last one stays."""
        if self.figure is None or len(self.figures) < 2:
            return
        at = self.figures.index(self.figure)
        rest = [figure for figure in self.figures if figure is not self.figure]
        name = self.figure.label
        hidden = [*self.harness.hidden, self.figure.key]
        self.figure = rest[min(at, len(rest) - 1)]
        self.keep_columns(self.harness.columns, hidden)
        again = self.harness.with_keys("{board.columns:C} brings it back")
        self.harness.tell(f"{name} is hidden: {again}")

    def action_columns(self) -> None:
        """Choose which columns are shown, in the order in which they are marked."""
        rows = [
            {"id": figure.key, "judge": figure.judge}
            for figure in arranged(self.board.figures, self.harness.columns, ())
        ]
        columns = [Column("id", "column", 30, grow=2), Column("judge", "judge", 16, grow=1)]
        shown = [figure.key for figure in self.figures]

        def chosen(names: list[str] | None) -> None:
            if names:
                here = {str(row["id"]) for row in rows}
                elsewhere = [key for key in self.harness.hidden if key not in here]
                self.keep_columns(names, [*elsewhere, *(here - set(names))])

        title = "Columns, in the order of marking"
        self.app.push_screen(Choose(title, rows, columns, many=True, marked=shown), chosen)

    def keep_columns(self, first: Sequence[str], hidden: Iterable[str]) -> None:
        """Keep an arrangement, and show it."""
        others = [key for key in self.harness.columns if key not in first]
        self.harness.set_columns([*first, *others], sorted(set(hidden)))
        self.seen = self.harness.version
        self.rebuild()
