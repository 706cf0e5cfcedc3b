"""Charts as SVG files, drawn as the report draws them."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from kdharness.harness.reports.blocks import LinePlot, PlotPoint, Scatter
from kdharness.harness.reports.svg import picture_file
from kdharness.harness.util.atomic import atomic_write_text

if TYPE_CHECKING:
    from kdharness.tui.widgets.chart import Mark, Plane

LOWER = " (lower is better)"
Curve = tuple[str, Sequence[tuple[float, float]]]


def save_curves(
    path: Path, series: Sequence[Curve], title: str, *, x_label: str, log: bool
) -> None:
    """Save curves over what `x_label` names."""
    curves = tuple((name, tuple(points)) for name, points in series)
    atomic_write_text(path, picture_file(LinePlot(title, title, curves, x_label, log)))


def save_plane(path: Path, plane: Plane) -> None:
    """Save the trade-off plane: checkpoints with intervals, and the front."""
    block = Scatter(
        f"{plane.x_name} and {plane.y_name}",
        plane.x_name + LOWER * plane.x_reverse,
        plane.y_name + LOWER * plane.y_reverse,
        tuple(map(_point, plane.marks)),
        paths=tuple(map(tuple, plane.lines)),
        x_reverse=plane.x_reverse,
        y_reverse=plane.y_reverse,
    )
    atomic_write_text(path, picture_file(block))


def _point(mark: Mark) -> PlotPoint:
    ends = (_both(mark.x_ends), _both(mark.y_ends))
    return PlotPoint(mark.name, mark.x, mark.y, *ends, front=mark.front)


def _both(ends: tuple[float | None, float | None]) -> tuple[float, float] | None:
    low, high = ends
    return None if low is None or high is None else (low, high)
