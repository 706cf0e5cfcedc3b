"""Doctor: checks of this machine."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, ClassVar

from textual import on
from textual.binding import Binding, BindingType
from textual.widget import Widget

from kdharness.harness.util.text import safe_text
from kdharness.tui import commands
from kdharness.tui.screens.base import ListPlace
from kdharness.tui.viewmodels.rows import Column, Line, Part, Row
from kdharness.tui.widgets.table import Listing
from kdharness.tui.widgets.text_view import TextView

_GRAVITY = {"broken": 0, "note": 1, "ok": 2}


class DoctorScreen(ListPlace):
    """The results of `kdharness doctor`."""

    place = "doctor"
    title_text = "Doctor"
    about = (
        "Checks versions, processors, memory, disk, store, assets, Hub and judge in a separate "
        "process; broken checks come first. Below the list: how to fix the current one. "
        "{doctor.look:r} checks again."
    )
    BINDINGS: ClassVar[list[BindingType]] = [Binding("r", "look", "Re-check", id="doctor.look")]

    def body(self) -> Iterable[Widget]:
        """Yield the list."""
        yield Listing(
            [
                Column("check", "check", 22),
                Column("status", "", 9),
                Column("detail", "detail", 40, grow=1),
            ],
            self.cell,
            key="check",
            id="list",
            opens=False,
            waiting="checking … (importing torch)",
        )
        yield TextView(id="advice")

    def on_mount(self) -> None:
        """Run the checks."""
        super().on_mount()
        self.action_look()

    def cell(self, row: Row, column: Column, width: int) -> list[Part]:
        """Return the parts of one cell."""
        value = str(row[column.key])
        if column.key == "status":
            mark, role = {"ok": ("✓", "good"), "note": ("·", "warn")}.get(value, ("✗", "bad"))
            return [(f"{mark} {value}", role)]
        return [(value, "strong" if column.key == "check" else "")]

    @on(Listing.Highlighted, "#list")
    def _moved(self, event: Listing.Highlighted) -> None:
        row = event.row or {}
        lines: list[Line] = [[], [(safe_text(str(row.get("detail", "")), 400), "dim")]]
        if row.get("advice"):
            lines += [[], [("→ ", "accent"), (safe_text(str(row["advice"]), 400), "strong")]]
        self.query_one("#advice", TextView).set_lines(lines)

    def action_look(self) -> None:
        """Run `kdharness doctor`."""

        def work() -> list[dict[str, Any]]:
            done = commands.run_command(self.harness.paths.home, "doctor", "--format", "json")
            rows: list[dict[str, Any]] = commands.printed_json(done)
            return sorted(rows, key=lambda row: _GRAVITY.get(row["status"], 0))

        self.harness.in_thread(work, self.listing().set_rows)
