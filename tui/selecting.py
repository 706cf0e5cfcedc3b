"""The app's selection: one for all screens, changed by their keys."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING

from kdharness.harness.util.text import listed
from kdharness.tui import screens
from kdharness.tui.notices import Notices
from kdharness.tui.screens.base import PlaceScreen
from kdharness.tui.viewmodels.rows import Column
from kdharness.tui.viewmodels.selection import LIMIT, Selection, newest_pair

if TYPE_CHECKING:
    from kdharness.harness.store import Store


class Selecting(Notices):
    """Marks checkpoints and updates the active screen; other screens update when resumed."""

    selection = Selection()

    if TYPE_CHECKING:

        @property
        def store(self) -> Store:
            """See the app."""

    def select(self, selection: Selection) -> None:
        """Replace the selection on every screen; beyond its limit, keep the first ones."""
        if len(selection.names) > LIMIT:
            left = listed(selection.names[LIMIT:])
            self.notify(
                f"at most {LIMIT} are compared at a time, without {left}: unmark one first",
                severity="warning",
                markup=False,
            )
            at = selection.at if selection.at < LIMIT else 1
            selection = Selection(selection.names[:LIMIT], at)
        if selection == self.selection:
            return
        self.selection = selection
        if isinstance(self.screen, PlaceScreen):
            self.screen.while_here(self.screen.follow_selection)

    def toggle_selected(self, name: str) -> None:
        """Add a checkpoint, or a run that will make one, or remove it."""
        self.select(self.selection.toggled(name))

    def rename_selected(self, names: Mapping[str, str]) -> None:
        """Let the selection follow new names."""
        renamed = tuple(names.get(name, name) for name in self.selection.names)
        self.select(Selection(renamed, self.selection.at))

    def compared(self) -> Selection:
        """Return what is compared: the selection, or else the newest pair that shares scores."""
        known = self.selection.known(self.store)
        if known.is_pair:
            return known
        names = newest_pair(self.store.checkpoints(), self.store.judgment_groups(), known.base)
        return Selection(names)

    def action_swap(self) -> None:
        """Swap the base and the other one."""
        shows_pair = isinstance(self.screen, PlaceScreen) and self.screen.shows_pair
        shown = self.compared() if shows_pair else self.selection
        if shown.is_pair:
            self.select(shown.swapped())
        else:
            self.notify(
                "nothing to swap: mark two checkpoints first (space)", timeout=4, markup=False
            )

    def choose_checkpoints(
        self, take: Callable[[list[str]], None], *, marked: Sequence[str] = ()
    ) -> None:
        """Let the user mark checkpoints in a list."""
        rows = [
            {"id": c.name, "method": c.method, "run": c.run or ""}
            for c in reversed(self.store.checkpoints())
        ]
        columns = [
            Column("id", "checkpoint", 20, grow=2),
            Column("method", "kind", 6),
            Column("run", "run", 12, grow=1),
        ]

        def chosen(names: list[str] | None) -> None:
            if names is not None:
                take(names)

        self.push_screen(
            screens.Choose(
                "Checkpoints: the first is the base", rows, columns, many=True, marked=marked
            ),
            chosen,
        )

    def action_select_checkpoints(self) -> None:
        """Let the user choose the checkpoints that every screen shows."""

        def take(names: list[str]) -> None:
            if len(names) < 2:
                self.notify("mark at least two", severity="warning", markup=False)
            else:
                self.select(Selection(tuple(names)))

        self.choose_checkpoints(take, marked=self.compared().names)
