"""Keys to delete, rename, tag and annotate what a screen points at."""

from __future__ import annotations

from typing import ClassVar

from textual.binding import Binding, BindingType

from kdharness.tui.screens.base import PlaceScreen

CARE = {
    "remove": "Delete a run or checkpoint",
    "rename": "Rename a run or checkpoint",
    "tags": "Tags of a run or checkpoint",
    "note": "Note on a run or checkpoint",
}
"""What can be done, with its title in the command palette."""


class Caring(PlaceScreen):
    """A screen on runs or checkpoints; `subject` is the one that the keys are about.

    A screen that needs `d` itself leaves Delete for it.
    """

    BINDINGS: ClassVar[list[BindingType]] = [
        Binding("d,delete", "care('remove')", "Delete", show=False, id="care.remove"),
        Binding("R", "care('rename')", "Rename", show=False, id="care.rename"),
        Binding("number_sign", "care('tags')", "Tags", key_display="#", show=False, id="care.tags"),
        Binding("N", "care('note')", "Note", show=False, id="care.note"),
    ]

    def subject(self) -> str:
        """Return the name of the run or checkpoint under the cursor."""
        return ""

    def action_care(self, what: str) -> None:
        """Delete, rename, tag or annotate the run or checkpoint; deleting asks first."""
        if name := self.subject():
            self.harness.care(what, [name])
        else:
            self.notify("no run or checkpoint here", timeout=3, markup=False)
