"""Runs in groups: by experiment, status, kind, or any field of their configs."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, ClassVar

from textual.binding import Binding, BindingType

from kdharness.harness.types import Run
from kdharness.tui import screens, viewmodels
from kdharness.tui.screens.panes import PanedPlace
from kdharness.tui.viewmodels.rows import Column, Row, is_heading
from kdharness.tui.widgets.grouped import GroupedListing

if TYPE_CHECKING:
    from kdharness.harness.store import Store

NOTHING = "nothing"
LIVE = {"status": "status", "kind": "method"}
"""What the rows of the list hold themselves, in which column; a run's status changes in it."""


class GroupedRuns(PanedPlace):
    """A list of runs; G groups it."""

    BINDINGS: ClassVar[list[BindingType]] = [
        Binding("G", "group", "Group", show=False, id="runs.group"),
    ]
    runs: dict[str, Run]
    grouped_by = ""

    def runs_list(self) -> GroupedListing:
        """Return the list."""
        return self.query_one("#list", GroupedListing)

    def regroup(self) -> None:
        """Group the runs as the user chose, on another day perhaps."""
        self.grouped_by = field = self.harness.group
        if not field:
            self.runs_list().group_by("", None)
            return
        if field in LIVE:
            self._show_groups({})
            return
        paths = self.harness.paths

        def work(store: Store) -> dict[str, str]:
            return viewmodels.groups_by(store.runs(), field, paths)

        def show(groups: Mapping[str, str]) -> None:
            if self.grouped_by == field:
                self._show_groups(groups)

        self.read(work, show, what="groups")

    def _show_groups(self, groups: Mapping[str, str]) -> None:
        live = LIVE.get(self.grouped_by)

        def group_of(row: Row) -> str:
            return str(row[live]) if live else groups.get(str(row["id"]), "new")

        self.runs_list().group_by(self.grouped_by, group_of)
        self.follow_cursor()

    def action_group(self) -> None:
        """Choose what the runs are grouped by."""
        fields = viewmodels.group_fields(list(self.runs.values()))
        rows = [{"id": NOTHING, "values": ""}, *fields]
        columns = [Column("id", "group by", 30, grow=1), Column("values", "values", 20, grow=2)]

        def chosen(names: list[str] | None) -> None:
            if names:
                self.harness.set_group("" if names[0] == NOTHING else names[0])
                self.regroup()

        dialog = screens.Choose("Group runs", rows, columns, current=self.harness.group or NOTHING)
        self.app.push_screen(dialog, chosen)

    def export_rows(self) -> tuple[str, Sequence[dict[str, Any]], list[str]]:
        """Return the runs without the headings of groups."""
        stem, rows, columns = super().export_rows()
        return stem, [row for row in rows if not is_heading(row)], columns
