"""The profile of forgetting on the Compare screen: rows and columns. No widgets."""

from __future__ import annotations

from collections.abc import Sequence

from kdharness.harness.analysis.forgetting import CLOSENESS, Change
from kdharness.harness.util.text import figure
from kdharness.tui.viewmodels.rows import Column

MARKS = {
    "better": ("▲ better", "good"),
    "worse": ("▼ worse", "bad"),
    "changed": ("◆ changed", "active"),
    "": ("", ""),
}
"""A change -> its word on the screen and the role of its colour."""


def profile_page(
    changes: Sequence[Change], chosen: str, letter: str
) -> tuple[list[Column], list[dict[str, object]]]:
    """Return the columns and rows of one checkpoint's changes against the base.

    Args:
        changes: of all compared checkpoints.
        chosen: whose changes are shown.
        letter: its letter on the screen.
    """
    rows = [_row(change) for change in changes if change.checkpoint == chosen]
    columns = [
        Column("part", "part", 21, leave=1),
        Column("metric", "metric", 24, grow=1),
        Column("base", "A", 6, right=True),
        Column("other", letter, 6, right=True),
        Column("interval", f"{letter} − A, 95 %", 21),
        Column("change", "", 16),
    ]
    return columns, rows


def _row(change: Change) -> dict[str, object]:
    word, role = MARKS.get(change.change, ("≈ no significant difference", "dim"))
    low, high = change.gap.low, change.gap.high
    ends = "" if low is None or high is None else f" [{figure(low, 2)}, {figure(high, 2)}]"
    distance = change.part == CLOSENESS
    shown = "" if distance else f"{change.gap.value:+.3g}"
    return {
        "id": f"{change.part}:{change.bench}:{change.metric}:{change.judge}",
        "part": change.part,
        "bench": change.bench,
        "metric": f"{change.bench} {change.metric}",
        "base": "" if change.reference is None else figure(change.reference, 3),
        "other": figure(change.value, 3),
        "interval": f"{shown}{ends}".strip(),
        "change": word,
        "role": role,
    }
