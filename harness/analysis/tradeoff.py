"""How much domain was gained and how much generality was lost: pure functions.

METHOD.md section 6. With D the domain figure and G the general one, both turned so that more is
better:

    gain       (D − D_ref) / (D_expert − D_ref)      0: the reference, 1: the whole expert
    retention  G / G_ref for scores, G_ref / G for losses      1: nothing lost

The Pareto front is taken on the two figures themselves, the hypervolume on (retention, gain)
above a floor.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass


@dataclass(frozen=True)
class Axis:
    """One figure of the leaderboard as an axis."""

    bench: str
    metric: str
    lower_is_better: bool

    @property
    def label(self) -> str:
        """`bench:metric`, as options take it."""
        return f"{self.bench}:{self.metric}"

    def oriented(self, value: float) -> float:
        """The value turned so that more is better."""
        return -value if self.lower_is_better else value


@dataclass(frozen=True)
class Point:
    """One checkpoint on both axes, in the axes' own units, with intervals where known."""

    checkpoint: str
    method: str
    general: float
    domain: float
    general_interval: tuple[float | None, float | None] = (None, None)
    domain_interval: tuple[float | None, float | None] = (None, None)


@dataclass(frozen=True)
class Placed:
    """A point with what it means beside the reference and the expert; None where undefined."""

    point: Point
    gain: float | None
    retention: float | None
    on_front: bool


def gain(domain: float, reference: float, expert: float) -> float | None:
    """The share of the expert's domain gain; None when the expert gained nothing."""
    span = expert - reference
    return (domain - reference) / span if span else None


def retention(general: float, reference: float, *, lower_is_better: bool) -> float | None:
    """The share of the reference's general figure that is left; None when it is zero."""
    top, bottom = (reference, general) if lower_is_better else (general, reference)
    return top / bottom if bottom else None


def pareto_front(points: Sequence[tuple[float, float]]) -> list[bool]:
    """Which points no other point beats: as good on both axes and better on one."""
    return [
        not any(x >= px and y >= py and (x > px or y > py) for x, y in points) for px, py in points
    ]


def hypervolume(points: Sequence[tuple[float, float]], floor: tuple[float, float]) -> float:
    """The area that the points dominate above `floor`, both axes more-is-better."""
    above = sorted(
        ((x, y) for x, y in points if x > floor[0] and y > floor[1]), key=lambda p: (-p[0], -p[1])
    )
    area, height = 0.0, floor[1]
    for x, y in above:
        if y > height:
            area += (x - floor[0]) * (y - height)
            height = y
    return area


def place(
    points: Sequence[Point],
    general: Axis,
    domain: Axis,
    reference: str | None,
    expert: str | None,
) -> list[Placed]:
    """Gain, retention and front for every point.

    Args:
        points: the checkpoints that have both figures.
        general, domain: the axes.
        reference, expert: names among the points; without one, what needs it is None.
    """
    by_name = {point.checkpoint: point for point in points}
    base, best = by_name.get(reference or ""), by_name.get(expert or "")
    front = pareto_front([(general.oriented(p.general), domain.oriented(p.domain)) for p in points])
    placed = []
    for point, on_front in zip(points, front, strict=True):
        gained = kept = None
        if base is not None:
            kept = retention(point.general, base.general, lower_is_better=general.lower_is_better)
        if base is not None and best is not None:
            gained = gain(point.domain, base.domain, best.domain)
        placed.append(Placed(point, gained, kept, on_front))
    return placed


def dominated_area(
    placed: Sequence[Placed], floor: tuple[float, float] = (0.0, 0.0)
) -> float | None:
    """The hypervolume of (retention, gain); None where no reference or expert is known."""
    pairs = [(p.retention, p.gain) for p in placed]
    known = [(r, g) for r, g in pairs if r is not None and g is not None]
    finite = [(r, g) for r, g in known if math.isfinite(r) and math.isfinite(g)]
    return hypervolume(finite, floor) if finite else None


def draw(
    placed: Sequence[Placed], general: Axis, domain: Axis, width: int = 64, height: int = 14
) -> list[str]:
    """The plane as text: general to the right, domain upwards, both more-is-better.

    `#` is on the front, `o` is not; each mark has the point's number beside it.
    """
    if not placed:
        return []
    xs = [general.oriented(p.point.general) for p in placed]
    ys = [domain.oriented(p.point.domain) for p in placed]
    grid = [[" "] * width for _ in range(height)]
    for number, (item, x, y) in enumerate(zip(placed, xs, ys, strict=True), 1):
        column = _cell(x, xs, width - 4)
        row = height - 1 - _cell(y, ys, height)
        text = f"{'#' if item.on_front else 'o'}{number}"
        while any(grid[row][column + i] != " " for i in range(len(text))) and row > 0:
            row -= 1
        for i, char in enumerate(text):
            grid[row][column + i] = char
    low_x, high_x = (_edge(general, xs, pick) for pick in (min, max))
    low_y, high_y = (_edge(domain, ys, pick) for pick in (min, max))
    lines = [f"{domain.label}  ({low_y} at the bottom, {high_y} at the top)"]
    lines += ["│" + "".join(row).rstrip() for row in grid]
    lines.append("└" + "─" * width)
    lines.append(f"{general.label}: {low_x} at the left, {high_x} at the right (better)")
    return lines


def _cell(value: float, values: Sequence[float], size: int) -> int:
    low, high = min(values), max(values)
    return round((value - low) / (high - low) * (size - 1)) if high > low else size // 2


def _edge(axis: Axis, values: Sequence[float], pick: object) -> str:
    value = pick(values)  # type: ignore[operator]
    return f"{axis.oriented(value):.4g}"
