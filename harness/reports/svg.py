"""Draw figures as SVG, inline or as a file: no scripts, no fonts, no external resources.

The colours are Okabe and Ito's colour-blind-safe palette; marks differ in shape as well.
"""

from __future__ import annotations

import html
import math
from collections.abc import Sequence

from kdharness.harness.reports.blocks import (
    IntervalPlot,
    LinePlot,
    Picture,
    PlotPoint,
    Radar,
    Scatter,
)
from kdharness.harness.util.text import safe_text
from kdharness.harness.util.ticks import log_ticks, share_of_axis, ticks

COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#7A7A7A")
DASHES = ("", "7 3", "2 3", "9 3 2 3", "1 4", "12 4", "4 4")
WIDTH, HEIGHT = 640, 340
LEFT, RIGHT, TOP, BOTTOM = 64, 16, 14, 44
FILE_STYLE = (
    "<style>text{font:11px system-ui,sans-serif;fill:#222}"
    ".grid{stroke:#ddd;stroke-width:1}</style>"
    '<rect width="100%" height="100%" fill="#fff"/>'
)
"""What a report's own style says, for a file of its own: dark text on white."""


def picture(block: Picture) -> str:
    """Return the SVG of a figure block."""
    if isinstance(block, Scatter):
        return scatter(block)
    if isinstance(block, LinePlot):
        return lines(block)
    if isinstance(block, IntervalPlot):
        return whiskers(block)
    return radar(block)


def picture_file(block: Picture) -> str:
    """Return the SVG of a figure block as a file, which needs no page around it."""
    head, rest = picture(block).split(">", 1)
    return f'<?xml version="1.0" encoding="UTF-8"?>\n{head}>{FILE_STYLE}{rest}\n'


def text_of(value: str, limit: int = 60) -> str:
    """Return text for SVG or HTML, escaped and without control characters."""
    return html.escape(safe_text(value.replace("\n", " "), limit), quote=True)


class Frame:
    """Axes over a range of data: maps values to coordinates and draws the grid."""

    def __init__(
        self,
        xs: Sequence[float],
        ys: Sequence[float],
        height: float = HEIGHT,
        *,
        log: bool = False,
        reverse: tuple[bool, bool] = (False, False),
    ) -> None:
        self.height, self.log, self.reverse = height, log, reverse
        self.x0, self.x1 = _padded(xs)
        self.y0, self.y1 = _padded([math.log10(y) for y in ys] if log else ys)

    def x(self, value: float) -> float:
        """Return the horizontal coordinate of a value."""
        share = share_of_axis(value, self.x0, self.x1)
        share = 1 - share if self.reverse[0] else share
        return LEFT + share * (WIDTH - LEFT - RIGHT)

    def y(self, value: float) -> float:
        """Return the vertical coordinate of a value, which is above 0 on a logarithmic axis."""
        share = share_of_axis(math.log10(value) if self.log else value, self.y0, self.y1)
        share = 1 - share if self.reverse[1] else share
        return self.height - BOTTOM - share * (self.height - TOP - BOTTOM)

    def _y_ticks(self) -> list[float]:
        if not self.log:
            return ticks(self.y0, self.y1)
        found = log_ticks(10.0 ** max(self.y0, -300), 10.0 ** min(self.y1, 300))
        return found[:: max(1, len(found) // 8)]

    def axes(self, x_label: str, y_label: str) -> list[str]:
        """Draw grid, ticks and labels."""
        floor = self.height - BOTTOM
        out = []
        for value in ticks(self.x0, self.x1):
            out.append(_line(self.x(value), TOP, self.x(value), floor, 'class="grid"'))
            out.append(_text(self.x(value), floor + 15, _tick(value), "middle"))
        for value in self._y_ticks():
            out.append(_line(LEFT, self.y(value), WIDTH - RIGHT, self.y(value), 'class="grid"'))
            out.append(_text(LEFT - 6, self.y(value) + 4, _tick(value), "end"))
        out.append(_text((LEFT + WIDTH - RIGHT) / 2, self.height - 8, x_label, "middle"))
        middle = (TOP + floor) / 2
        out.append(
            f'<text x="14" y="{middle:.1f}" text-anchor="middle" '
            f'transform="rotate(-90 14 {middle:.1f})">{text_of(y_label)}</text>'
        )
        return out


def _tick(value: float) -> str:
    """Return a tick's label: counts of tokens and steps in full."""
    whole = value == round(value) and 1e4 <= abs(value) < 1e7
    return f"{value:,.0f}" if whole else f"{value:z.4g}"


def _padded(values: Sequence[float]) -> tuple[float, float]:
    finite = [value for value in values if math.isfinite(value)] or [0.0]
    low, high = min(finite), max(finite)
    pad = (high - low) * 0.06 or abs(high) * 0.05 or 0.5
    return low - pad, high + pad


def _svg(title: str, parts: Sequence[str], height: float = HEIGHT) -> str:
    return (
        f'<svg viewBox="0 0 {WIDTH} {height:.0f}" role="img" aria-label="{text_of(title, 200)}" '
        f'xmlns="http://www.w3.org/2000/svg">{"".join(parts)}</svg>'
    )


def _line(x1: float, y1: float, x2: float, y2: float, style: str) -> str:
    return f'<line x1="{x1:.1f}" y1="{y1:.1f}" x2="{x2:.1f}" y2="{y2:.1f}" {style}/>'


def _text(x: float, y: float, text: str, anchor: str = "start") -> str:
    return f'<text x="{x:.1f}" y="{y:.1f}" text-anchor="{anchor}">{text_of(text)}</text>'


def _path(points: Sequence[tuple[float, float]], style: str) -> str:
    if not points:
        return ""
    moves = " L".join(f"{x:.1f} {y:.1f}" for x, y in points)
    return f'<path d="M{moves}" fill="none" {style}/>'


def _legend(names: Sequence[str], y: float) -> tuple[list[str], float]:
    """Draw the legend of line styles below a figure; return it and its height."""
    out = []
    for index, name in enumerate(names):
        x, row = LEFT + (index % 2) * 290, y + 18 * (index // 2)
        out.append(_line(x, row, x + 28, row, _stroke(index)))
        out.append(_text(x + 34, row + 4, name if len(name) <= 34 else f"{name[:33]}…"))
    return out, 18 * math.ceil(len(names) / 2) + 8


def _stroke(index: int) -> str:
    dash = DASHES[index // len(COLOURS) % len(DASHES)] or DASHES[index % len(DASHES)]
    dashes = f' stroke-dasharray="{dash}"' if dash else ""
    return f'stroke="{COLOURS[index % len(COLOURS)]}" stroke-width="1.8"{dashes}'


# ---------------------------------------------------------------- the four kinds


def scatter(block: Scatter) -> str:
    """Draw numbered marks with error bars; squares are on the front. The legend is below."""
    corners = [point for path in (block.line, *block.paths) for point in path]
    xs = [v for m in block.marks for v in (m.x, *(m.x_ends or ()))] + [x for x, _ in corners]
    ys = [v for m in block.marks for v in (m.y, *(m.y_ends or ()))] + [y for _, y in corners]
    frame = Frame(xs, ys, reverse=(block.x_reverse, block.y_reverse))
    parts = frame.axes(block.x_label, block.y_label)
    for path in block.paths:
        shown = [(frame.x(x), frame.y(y)) for x, y in path]
        parts.append(_path(shown, 'stroke="#7A7A7A" stroke-width="1.2"'))
    corners = [(frame.x(x), frame.y(y)) for x, y in block.line]
    parts.append(_path(corners, 'stroke="#7A7A7A" stroke-width="1.6" stroke-dasharray="6 4"'))
    for number, mark in enumerate(block.marks, 1):
        parts += _mark(frame, mark, number)
    bottom: float = HEIGHT + 12
    entries = [f"{n} {'■' if m.front else '●'} {m.label}" for n, m in enumerate(block.marks, 1)]
    entries += [f"- - {block.line_label}"] if block.line else []
    for index, entry in enumerate(entries):
        parts.append(_text(LEFT + (index % 2) * 290, bottom + 18 * (index // 2), entry[:44]))
    return _svg(block.title, parts, bottom + 18 * math.ceil(len(entries) / 2))


def _mark(frame: Frame, mark: PlotPoint, number: int) -> list[str]:
    x, y = frame.x(mark.x), frame.y(mark.y)
    colour = COLOURS[0] if mark.front else COLOURS[1]
    style = f'stroke="{colour}" stroke-width="1.2" opacity="0.7"'
    out = []
    if mark.x_ends:
        out.append(_line(frame.x(mark.x_ends[0]), y, frame.x(mark.x_ends[1]), y, style))
    if mark.y_ends:
        out.append(_line(x, frame.y(mark.y_ends[0]), x, frame.y(mark.y_ends[1]), style))
    if mark.front:
        out.append(
            f'<rect x="{x - 5:.1f}" y="{y - 5:.1f}" width="10" height="10" fill="{colour}"/>'
        )
    else:
        out.append(f'<circle cx="{x:.1f}" cy="{y:.1f}" r="5" fill="{colour}"/>')
    out.append(_text(x + 8, y - 7, str(number)))
    return out


def lines(block: LinePlot) -> str:
    """Draw curves over steps, each with its own colour and dash pattern."""
    floor = 0.0 if block.log else -math.inf
    kept = [[p for p in s if math.isfinite(p[1]) and p[1] > floor] for _, s in block.series]
    points = [point for series in kept for point in series]
    frame = Frame([x for x, _ in points], [y for _, y in points], log=block.log)
    parts = frame.axes(block.x_label, block.y_label)
    for index, series in enumerate(kept):
        shown = [(frame.x(x), frame.y(y)) for x, y in series]
        parts.append(_path(shown, _stroke(index)))
        if len(shown) == 1:
            parts.append(
                f'<circle cx="{shown[0][0]:.1f}" cy="{shown[0][1]:.1f}" r="3" '
                f'fill="{COLOURS[index % len(COLOURS)]}"/>'
            )
    key, height = _legend([name for name, _ in block.series], HEIGHT + 10)
    return _svg(block.title, [*parts, *key], HEIGHT + 10 + height)


def whiskers(block: IntervalPlot) -> str:
    """Draw one row per score: a dot, and a line for its interval."""
    left, row = 220, 24
    values = [v for _, value, low, high in block.rows for v in (value, low, high) if v is not None]
    low_end, high_end = _padded(values)
    height = TOP + row * len(block.rows) + 26

    def at(value: float) -> float:
        return left + share_of_axis(value, low_end, high_end) * (WIDTH - left - RIGHT)

    parts = []
    for tick in ticks(low_end, high_end):
        parts.append(_line(at(tick), TOP, at(tick), height - 24, 'class="grid"'))
        parts.append(_text(at(tick), height - 8, f"{tick:z.4g}", "middle"))
    for index, (name, value, low, high) in enumerate(block.rows):
        y = TOP + row * (index + 0.5)
        parts.append(_text(left - 8, y + 4, name if len(name) <= 30 else f"{name[:29]}…", "end"))
        if low is not None and high is not None:
            parts.append(_line(at(low), y, at(high), y, f'stroke="{COLOURS[0]}" stroke-width="2"'))
        parts.append(f'<circle cx="{at(value):.1f}" cy="{y:.1f}" r="4.5" fill="{COLOURS[1]}"/>')
    return _svg(block.title, parts, height)


def radar(block: Radar) -> str:
    """Draw a radar chart: one axis per category, one polygon per checkpoint."""
    middle, reach, centre = WIDTH / 2, 120.0, 164.0
    count = len(block.categories)

    def at(index: int, value: float) -> tuple[float, float]:
        share = share_of_axis(value, block.low, block.high)
        angle = 2 * math.pi * index / count - math.pi / 2
        share = max(0.0, min(1.0, share))
        return middle + reach * share * math.cos(angle), centre + reach * share * math.sin(angle)

    parts = []
    for step in (0.25, 0.5, 0.75, 1.0):
        level = block.low + (block.high - block.low) * step
        ring = [at(index, level) for index in range(count)]
        parts.append(_path([*ring, ring[0]], 'class="grid"'))
        parts.append(_text(middle + 3, ring[0][1] - 2, f"{level:.3g}"))
    for index, category in enumerate(block.categories):
        x, y = at(index, block.high)
        parts.append(_line(middle, centre, x, y, 'class="grid"'))
        side = "middle" if abs(x - middle) < 8 else "start" if x > middle else "end"
        # Keep the topmost name clear of the scale labels.
        above = 8 if side == "middle" and y < centre else 0
        parts.append(
            _text(
                middle + (x - middle) * 1.08,
                centre + (y - centre) * 1.1 + 4 - above,
                category[:30],
                side,
            )
        )
    for index, (_, values) in enumerate(block.series):
        corners = [at(n, value) for n, value in enumerate(values) if value is not None]
        if corners:
            parts.append(_path([*corners, corners[0]], _stroke(index)))
    key, height = _legend([name for name, _ in block.series], centre + reach + 40)
    return _svg(block.title, [*parts, *key], centre + reach + 40 + height)
