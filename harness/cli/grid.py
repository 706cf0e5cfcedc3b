"""Side-by-side tables for a terminal: columns that do not fit its width go into further blocks."""

from __future__ import annotations

import math
import shutil
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import zip_longest

from rich.cells import cell_len

from kdharness.harness.util.text import DASH, figure, safe_text

GAP = "  "
NAME_SHARE = 3
"""A name takes at most one part in this many of the width; the middle of longer ones is cut."""
SAME_SHARE = 0.1
"""Halves of an interval that differ by less than this share are printed as one `±`."""


@dataclass(frozen=True)
class GridColumn:
    """A column: header lines, and one cell per row."""

    header: tuple[str, ...]
    cells: tuple[str, ...]
    right: bool = False

    @property
    def width(self) -> int:
        """The cells of a terminal that it takes."""
        return max(map(cell_width, (*self.header, *self.cells)), default=0)

    def lines(self, depth: int) -> list[str]:
        """Return header and cells padded to one width; shorter headers move down."""
        blank = ("",) * (depth - len(self.header))
        return [pad(text, self.width, self.right) for text in (*blank, *self.header, *self.cells)]


def cell_width(text: str) -> int:
    """Return the number of terminal cells that a text takes."""
    return cell_len(text)


def pad(text: str, width: int, right: bool = False) -> str:
    """Pad a text to a width, on the left if it is right-aligned."""
    space = " " * (width - cell_width(text))
    return space + text if right else text + space


def terminal_width() -> int:
    """Return the width of the terminal (or `COLUMNS`), 80 where there is none."""
    return max(shutil.get_terminal_size((80, 24)).columns, 40)


def shortened(name: str, width: int) -> str:
    """Return a name without its middle where it is wider than its share of the width."""
    limit = max(width // NAME_SHARE, 12)
    text = safe_text(name.replace("\n", " "))
    if cell_width(text) <= limit:
        return text
    tail = limit // 2
    return f"{text[: limit - tail - 1]}…{text[-tail:]}"


def distinct(names: Sequence[str], width: int) -> list[str]:
    """Shorten names, unless two of them would then look the same."""
    cut = [shortened(name, width) for name in names]
    return [
        short if cut.count(short) == 1 else safe_text(name.replace("\n", " "))
        for name, short in zip(names, cut, strict=True)
    ]


def format_grid(
    labels: Sequence[GridColumn],
    groups: Sequence[Sequence[GridColumn]],
    width: int,
    *,
    sparse: bool = False,
) -> str:
    """Lay out groups of columns beside the label columns.

    A group is never split; groups that do not fit go into a block below, with the labels again.

    Args:
        width: of the terminal.
        sparse: leave out a row in blocks where it has no value, unless it has none anywhere.
    """
    blocks: list[list[GridColumn]] = []
    used = 0
    for group in groups:
        needed = sum(column.width + len(GAP) for column in group)
        if not blocks or used + needed > width:
            blocks.append(list(labels))
            used = sum(column.width + len(GAP) for column in labels) - len(GAP)
        blocks[-1] += group
        used += needed
    filled = _filled([column for group in groups for column in group])
    return "\n\n".join(
        _block(block, filled - _filled(block[len(labels) :]) if sparse else set())
        for block in blocks
    )


def _filled(columns: Sequence[GridColumn]) -> set[int]:
    """Return the numbers of the rows with a value in one of the columns."""
    return {n for c in columns for n, cell in enumerate(c.cells) if cell.strip() not in ("", DASH)}


def _block(columns: Sequence[GridColumn], left_out: set[int]) -> str:
    depth = max(len(column.header) for column in columns)
    lines = zip(*(column.lines(depth) for column in columns), strict=True)
    shown = (parts for n, parts in enumerate(lines) if n - depth not in left_out)
    return "\n".join(GAP.join(parts).rstrip() for parts in shown)


def aligned(rows: Iterable[Sequence[str]]) -> list[str]:
    """Join the parts of each cell so that they line up: the first right-aligned, the rest left."""
    listed = [tuple(row) for row in rows]
    widths = [max(map(cell_width, parts)) for parts in zip_longest(*listed, fillvalue="")]
    cells = []
    for row in listed:
        parts = [pad(text, widths[n], right=n == 0) for n, text in enumerate(row) if widths[n]]
        cells.append(" ".join(parts).rstrip())
    return cells


# ---------------------------------------------------------------- numbers with intervals

Estimate = tuple[float | None, float | None, float | None]
"""A value with the ends of its interval."""


def decimals_for(estimates: Iterable[Estimate]) -> int | None:
    """Return the decimals that two digits of the narrowest interval need; None without intervals.

    At least one below 100, at most four.
    """
    needed: list[int] = []
    for value, low, high in estimates:
        if value is None or low is None or high is None or not math.isfinite(high - low):
            continue
        half = max(high - value, value - low)
        if half > 0:
            least = 1 if abs(value) < 100 else 0
            needed.append(min(4, max(least, 1 - math.floor(math.log10(half)))))
    return max(needed) if needed else None


def interval_parts(estimate: Estimate, decimals: int | None) -> tuple[str, str]:
    """Return a value, and how far its interval reaches: `±.08`, or `+.05−.07` if lopsided."""
    value, low, high = estimate
    if value is None:
        return DASH, ""
    if decimals is None or not math.isfinite(value):
        return figure(value), ""
    number = f"{value:z.{decimals}f}"
    if low is None or high is None:
        return number, ""
    up, down = high - value, value - low
    if abs(up - down) <= SAME_SHARE * max(up, down, 0.0):
        return number, "±" + _plain((up + down) / 2, decimals)
    return number, f"+{_plain(up, decimals)}−{_plain(down, decimals)}"


def _plain(size: float, decimals: int) -> str:
    """Format a distance without a leading zero."""
    if not math.isfinite(size):
        return "∞"
    text = f"{max(size, 0.0):.{decimals}f}"
    return text.removeprefix("0") if float(text) else "0"
