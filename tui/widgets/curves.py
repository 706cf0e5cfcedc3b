"""Curves drawn as lines of text: a title with its legend, a frame with ticks, and dots."""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence
from dataclasses import replace

from kdharness.harness.util.text import figure, safe_text
from kdharness.tui.viewmodels.drawings import Drawing, Series
from kdharness.tui.viewmodels.selection import shortened
from kdharness.tui.widgets.canvas import Canvas, Part, Scale, tick_text

LETTERS = "ABCDEFGH"
NO_ROOM = "  a chart needs a larger window"
APART = 4
"""Points this many cells from each other, on average, are marked: between them is a guess."""
SQUASHED = 3.0
"""Marks that would widen the axis by more than this factor have an axis of their own."""


def frame(canvas: Canvas, x: Scale, y: Scale, name: str, top: list[Part]) -> list[list[Part]]:
    """Frame a canvas with ticks to its left and below, and a line on top."""
    y_ticks = y.ticks(max(canvas.height // 3, 3))
    labels = {(canvas.height * 4 - 1 - y.place(v)) // 4: tick_text(v, y_ticks) for v in y_ticks}
    room = max((len(text) for text in labels.values()), default=1)
    lines: list[list[Part]] = [top]
    for row in range(canvas.height):
        label = labels.get(row, "")
        edge = "┤" if label else "│"
        lines.append([(f"{label:>{room}}{edge}", "axis"), *canvas.row(row)])
    x_ticks = x.ticks(max(canvas.width // 12, 2))
    below = [" "] * canvas.width
    axis = ["─"] * canvas.width
    for value in x_ticks:
        text, cell = tick_text(value, x_ticks), x.place(value) // 2
        start = min(max(cell - len(text) // 2, 0), canvas.width - len(text))
        around = below[max(start - 1, 0) : start + len(text) + 1]
        if 0 <= cell < canvas.width and not "".join(around).strip():
            below[start : start + len(text)] = text
            axis[cell] = "┬"
    lines.append([(" " * room + "└" + "".join(axis), "axis")])
    lines.append([(" " * (room + 1) + _named("".join(below), name), "axis")])
    return lines


def _named(ticks: str, name: str) -> str:
    """Write the name of an axis between its ticks, as far to the right as there is room."""
    for start in range(len(ticks) - len(name), 0, -1) if name else ():
        end = start + len(name)
        if not ticks[start - 1 : end + 1].strip():
            return ticks[:start] + name + ticks[end:]
    return ticks


def draw_curves(drawing: Drawing, width: int, height: int) -> list[list[Part]]:
    """Return title and legend, the curves in their frame, and ticks."""
    known = [_visible(series, drawing.log) for series in drawing.series]
    known = [series for series in known if series.points]
    curves = [series for series in known if not series.glyph]
    marks = [series for series in known if series.glyph]
    apart = _needs_own_axis(curves, marks)
    top = _top(drawing, curves, marks, width, apart=apart)
    if not curves:
        return [top, [], [(f"  no {drawing.title or 'points'} yet", "dim")]]
    if height < 5 or width < 16:
        return [top, [(NO_ROOM, "dim")]]
    shown = curves if apart else [*curves, *marks]
    rows = height - 3
    y_scale = _y_scale(shown, rows, log=drawing.log)
    values = y_scale.ticks(max(rows // 3, 3))
    room = max((len(tick_text(v, values)) for v in values), default=1) + 1
    canvas = Canvas(width - room, rows)
    xs = [x for series in [*curves, *marks] for x, _ in (series.points[0], series.points[-1])]
    low, high = drawing.span or (min(xs), max(xs))
    if low == high and not drawing.counted:
        low, high = 0.0, high or 1.0  # a single moment: no time before the start
    x_scale = Scale(low, high, canvas.width * 2, whole=drawing.counted)
    for series in curves:
        _draw(canvas, series, x_scale, y_scale)
    if len(curves) > 1:
        _letters(canvas, curves, x_scale, y_scale)
    mark_scale = _y_scale(marks, rows, log=drawing.log) if apart else y_scale
    for series in marks:
        _draw(canvas, series, x_scale, mark_scale)
    return frame(canvas, x_scale, y_scale, drawing.x_name, top)


def _visible(series: Series, log: bool) -> Series:
    points = [(x, y) for x, y in series.points if math.isfinite(y) and (y > 0 or not log)]
    return replace(series, points=points)


def _ends(series: Sequence[Series]) -> tuple[float, float]:
    values = [y for one in series for _, y in one.points]
    return min(values), max(values)


def _needs_own_axis(curves: Sequence[Series], marks: Sequence[Series]) -> bool:
    """Return whether one axis for both would press the curves, or the marks, flat."""
    if not curves or not marks:
        return False
    low, high = _ends(curves)
    both = _ends([*curves, *marks])
    return both[1] - both[0] > SQUASHED * max(high - low, 1e-12)


def _y_scale(series: Sequence[Series], rows: int, *, log: bool) -> Scale:
    low, high = _ends(series)
    return Scale(low, high, rows * 4, log=log)


def _letters(canvas: Canvas, curves: Sequence[Series], x: Scale, y: Scale) -> None:
    """Put a letter at the end of each curve."""
    for letter, series in zip(LETTERS, curves, strict=False):
        column = min(x.place(series.points[-1][0]) // 2, canvas.width - 1)
        row = (canvas.height * 4 - 1 - y.place(series.points[-1][1])) // 4
        while not canvas.free(column, row, 1) and row > 0:
            row -= 1
        canvas.put(column, row, letter, series.role)


def _draw(canvas: Canvas, series: Series, x_scale: Scale, y_scale: Scale) -> None:
    """Draw a line through the points; mark them if they have a glyph or are far apart."""
    bottom = canvas.height * 4 - 1
    dots = [(x_scale.place(x), bottom - y_scale.place(y)) for x, y in series.points]
    if not series.glyph:
        canvas.dot(*dots[0], series.role)
        for start, end in itertools.pairwise(dots):
            canvas.line(*start, *end, series.role)
    mark = series.glyph or ("•" if len(dots) * APART <= canvas.width else "")
    for across, down in dots if mark else ():
        canvas.put(across // 2, min(down // 4, canvas.height - 1), mark, series.role)


def _top(
    drawing: Drawing,
    curves: Sequence[Series],
    marks: Sequence[Series],
    width: int,
    *,
    apart: bool,
) -> list[Part]:
    head: list[Part] = [(f" {safe_text(drawing.title)}", "strong")]
    head += [(f" {drawing.value}", "")] if drawing.value else []
    tail: list[Part] = []
    if apart:
        low, high = _ends(marks)
        tail = [(f" (own axis {figure(low, 3)}–{figure(high, 3)})", "dim")]
    lettered = list(zip(LETTERS, curves, strict=False)) if len(curves) > 1 else []
    # Names if they fit, else letters and marks only.
    for size in (24, 12, 0):
        parts = [*head]
        for letter, series in lettered:
            name = f" {shortened(series.name, size)}" if size else ""
            parts.append((f"  {letter}{name}", series.role))
        for series in marks:
            name = f" {safe_text(series.name, 24)}" if size else ""
            value = figure(series.points[-1][1], 3)
            parts.append((f"  {series.glyph}{name} {value}", series.role))
        if sum(len(text) for text, _ in [*parts, *tail]) <= width:
            break
    return _cut([*parts, *tail], width)


def _cut(parts: Sequence[Part], width: int) -> list[Part]:
    """Return as much of a line as fits."""
    kept: list[Part] = []
    for text, role in parts:
        room = width - sum(len(part) for part, _ in kept)
        if len(text) > room:
            return [*kept, (text[: max(room - 1, 0)] + "…", role)] if room > 0 else kept
        kept.append((text, role))
    return kept
