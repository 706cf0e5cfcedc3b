"""The profile of forgetting on the Compare screen: rows and columns. No widgets."""

from __future__ import annotations

from kdharness.harness.analysis.forgetting import CLOSENESS, Change, Profile
from kdharness.harness.util.text import figure
from kdharness.tui.viewmodels.rows import Column

MARKS = {
    "better": ("▲ better", "good"),
    "worse": ("▼ worse", "bad"),
    "changed": ("◆ changed", "active"),
    "": ("", ""),
}
"""A change -> its word on the screen and the role of its colour."""
LEFT_OUT, TOO_FEW, OTHER_SETTINGS = "left out", "too few shared items", "other settings"


def profile_page(
    profile: Profile | None, chosen: str, letter: str
) -> tuple[list[Column], list[dict[str, object]]]:
    """Return the columns and rows of one checkpoint's changes, and what cannot be compared.

    Args:
        profile: of all compared checkpoints; None while it is being read.
        chosen: whose changes are shown.
        letter: its letter on the screen.
    """
    rows = []
    if profile is not None:
        rows = [_row(change) for change in profile.changes if change.checkpoint == chosen]
        rows += [
            {"id": f"left out:{bench}", "part": LEFT_OUT, "metric": bench, "interval": reason}
            for reason, benches in ((TOO_FEW, profile.few), (OTHER_SETTINGS, profile.apart))
            for bench, names in benches.items()
            if chosen in names
        ]
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
    shown = "" if distance else f"{change.gap.value:+z.3g}"
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
