"""A listing whose rows stand in groups below headings, which fold."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from rich.segment import Segment
from textual.strip import Strip

from kdharness.harness.util.text import safe_text
from kdharness.tui.viewmodels.rows import Row, grouped, is_heading
from kdharness.tui.widgets.table import Listing

GroupOf = Callable[[Row], str]


class GroupedListing(Listing):
    """Rows below a heading with their number, where something groups them."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.group_of: GroupOf | None = None
        self.grouping = ""
        self.folded: set[str] = set()

    def group_by(self, grouping: str, group_of: GroupOf | None) -> None:
        """Group the rows by what `group_of` returns for each, or not at all.

        Args:
            grouping: what the rows are grouped by; groups stay folded while it is the same.
        """
        if grouping != self.grouping:
            self.grouping, self.folded = grouping, set()
        self.group_of = group_of
        self.set_rows(self.all_rows)
        self._arrange()

    def _apply(self) -> None:
        super()._apply()
        if self.group_of is not None:
            self.rows = grouped(self.rows, self.group_of, self.folded, self.key)

    def counted(self) -> Sequence[Row]:
        """Return the rows that the title counts: without headings, folded or not."""
        if self.group_of is None:
            return self.rows
        return [row for row in self.rows if not is_heading(row)] + [
            row for heading in self.rows if is_heading(heading) for row in heading["hidden"]
        ]

    def _line(self, row: Row, cursor: bool, width: int) -> Strip:
        if not is_heading(row):
            return super()._line(row, cursor, width)
        base = self.style_of("cursor" if cursor else "row")
        fold = "▸" if row["hidden"] else "▾"
        title = safe_text(f"{fold} {row['heading']}", max(width - 30, 10))
        segments = [
            Segment(title, self._mix("strong", base, cursor)),
            Segment(f"  {row['told']}", self._mix("dim", base, cursor)),
        ]
        return Strip(segments).adjust_cell_length(width, base)

    def action_select(self) -> None:
        """Open the row; fold or unfold a heading."""
        row = self.row
        if row is None or not is_heading(row):
            super().action_select()
            return
        self.folded ^= {str(row["heading"])}
        self.set_rows(self.all_rows)
