"""Numbers drawn as text: progress bars, intervals, sparklines."""

from __future__ import annotations

import math


def bar(share: float, width: int) -> str:
    """Return a progress bar: a heavy line for the done part, a light one for the rest."""
    done = round(min(max(share, 0.0), 1.0) * width)
    return "━" * done + "─" * (width - done)


def interval(
    low: float, value: float, high: float, left: float, right: float, width: int
) -> tuple[int, int, int]:
    """Return the cells of an interval's bounds and estimate on a scale from `left` to `right`."""
    span = right - left

    def cell(number: float) -> int:
        share = (number - left) / span if span > 0 else 0.5
        return min(max(round(share * (width - 1)), 0), width - 1)

    return cell(low), cell(value), cell(high)


def interval_text(
    low: float,
    value: float,
    high: float,
    left: float,
    right: float,
    width: int,
    zero: float | None = None,
) -> str:
    """Return an interval as text: `├──●──┤`, with a mark at zero if that is given."""
    start, middle, end = interval(low, value, high, left, right, width)
    cells = [" "] * width
    if zero is not None and left <= zero <= right:
        cells[interval(zero, zero, zero, left, right, width)[1]] = "┊"
    for index in range(start, end + 1):
        cells[index] = "─" if cells[index] == " " else "┼"
    if start < end:
        cells[start], cells[end] = "├", "┤"
    cells[middle] = "●"
    return "".join(cells)


def sparkline(values: list[float], width: int) -> str:
    """Return a curve as one line of block characters."""
    finite = [value for value in values if math.isfinite(value)]
    if not finite or width < 1:
        return ""
    low, high = min(finite), max(finite)
    span = (high - low) or 1.0
    step = max(len(finite) / width, 1.0)
    picked = [finite[min(int(i * step), len(finite) - 1)] for i in range(min(width, len(finite)))]
    picked[-1] = finite[-1]
    return "".join("▁▂▃▄▅▆▇█"[min(int((v - low) / span * 7.999), 7)] for v in picked)
