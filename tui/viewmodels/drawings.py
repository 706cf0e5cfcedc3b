"""What charts show: curves, marks over them, and intervals on a line. No widgets."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field

from kdharness.tui.viewmodels.rows import Line

SERIES = tuple(f"series-{number}" for number in range(1, 7))
"""The colour roles of curves."""
HELDOUT = {"general_loss": "◆", "domain_loss": "◇"}
"""Held-out losses, which are drawn over the training loss, and their marks."""


@dataclass(frozen=True)
class Series:
    """One curve: its name, its points in order of x, and its colour role.

    One with a glyph is drawn as single points over the curves, and is named in the title.
    """

    name: str
    points: Sequence[tuple[float, float]]
    role: str = "series-1"
    glyph: str = ""


@dataclass(frozen=True)
class Drawing:
    """One chart: curves and marks, its title, and its axes.

    `value` is shown after the title; `counted` x values are whole and never negative; `span` is
    the part of the x axis that is shown, all of it if there is none.
    """

    series: Sequence[Series] = ()
    title: str = ""
    log: bool = False
    x_name: str = "step"
    counted: bool = True
    value: str = ""
    span: tuple[float, float] | None = None


@dataclass(frozen=True)
class IntervalLine:
    """An interval on a scale from `left` to `right`, between a head and a tail of text."""

    head: Line
    ends: tuple[float, float, float]
    left: float
    right: float
    tail: Line
    role: str = "series-1"
    extra: str = ""
    """What follows the tail if there is room."""


Block = Line | Drawing | IntervalLine
"""A part of a pane, drawn to the pane's width."""


@dataclass(frozen=True)
class Around:
    """What is the same for every run that a pane shows."""

    now: float
    rows: int
    """Rows of the pane."""
    colours: Mapping[str, str] = field(default_factory=dict)
    primary: Sequence[str] = ()
    """Labels of the metrics that come first."""


def run_colours(order: Iterable[str]) -> dict[str, str]:
    """Return the colour role of each training run, the same wherever it is drawn.

    Args:
        order: ids of the runs, oldest first: each takes the next colour.
    """
    return {run: SERIES[index % len(SERIES)] for index, run in enumerate(order)}


def colours_of(runs: Sequence[str], colours: Mapping[str, str]) -> dict[str, str]:
    """Return the roles of some runs in one chart; a run without a colour takes a free one."""
    taken = [colours[run] for run in runs if run in colours]
    free = [role for role in SERIES if role not in taken] or list(SERIES)
    found: dict[str, str] = {}
    for run in runs:
        spare = [role for role in free if role not in found.values()] or free
        found[run] = colours.get(run, spare[0])
    return found
