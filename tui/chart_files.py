"""Charts as SVG or PNG files, by matplotlib, which is loaded only here and on demand."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from kdharness.harness.util.text import safe_text

if TYPE_CHECKING:
    from kdharness.tui.widgets.chart import Plane

COLOURS = ("#0060a8", "#d55e00", "#a0347a", "#00755a")


def _figure() -> tuple[Any, Any]:
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(8, 5), layout="constrained")
    FigureCanvasAgg(figure)
    return figure, figure.add_subplot()


def save_curves(
    path: Path, series: Sequence[tuple[str, Sequence[tuple[float, float]]]], title: str, log: bool
) -> None:
    """Save curves over steps."""
    figure, axes = _figure()
    for index, (name, points) in enumerate(series):
        if points:
            axes.plot(
                [x for x, _ in points],
                [y for _, y in points],
                label=_plain(name),
                color=COLOURS[index % len(COLOURS)],
                linewidth=1.4,
            )
    axes.set_xlabel("step")
    axes.set_ylabel(_plain(title))
    if log:
        axes.set_yscale("log")
    axes.grid(alpha=0.25)
    if len(series) > 1:
        axes.legend()
    figure.savefig(path)


def save_plane(path: Path, plane: Plane) -> None:
    """Save the trade-off plane: checkpoints with intervals, and the front."""
    figure, axes = _figure()
    for line in plane.lines:
        axes.plot([x for x, _ in line], [y for _, y in line], color="#888888", linewidth=1)
    for mark in plane.marks:
        axes.errorbar(
            mark.x,
            mark.y,
            xerr=_ends(mark.x, mark.x_ends),
            yerr=_ends(mark.y, mark.y_ends),
            fmt="o",
            capsize=3,
            color=COLOURS[0],
            markerfacecolor=COLOURS[0] if mark.front else "white",
        )
        axes.annotate(
            _plain(mark.name),
            (mark.x, mark.y),
            textcoords="offset points",
            xytext=(7, 7),
            fontsize=9,
        )
    axes.set_xlabel(_plain(plane.x_name) + (" (lower is better)" if plane.x_reverse else ""))
    axes.set_ylabel(_plain(plane.y_name) + (" (lower is better)" if plane.y_reverse else ""))
    if plane.x_reverse:
        axes.invert_xaxis()
    if plane.y_reverse:
        axes.invert_yaxis()
    axes.grid(alpha=0.25)
    figure.savefig(path)


def _ends(value: float, ends: tuple[float | None, float | None]) -> list[list[float]] | None:
    low, high = ends
    if low is None or high is None:
        return None
    return [[max(value - low, 0.0)], [max(high - value, 0.0)]]


def _plain(text: str) -> str:
    """Escape dollar signs, which would start math text."""
    return safe_text(text, 80).replace("$", r"\$")
