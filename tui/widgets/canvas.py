"""Drawing with characters: lines in braille dots, ticks at round numbers. No widgets.

textual-plot was tried first. Importing it (with numpy) takes longer than opening the whole app,
its error bars are symmetric while our intervals are not, its legend parses names as markup, and it
fails under NO_COLOR; this module has the small part that is needed.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from itertools import pairwise

from kdharness.harness.util.ticks import log_ticks, ticks

DOTS = ((0x01, 0x08), (0x02, 0x10), (0x04, 0x20), (0x40, 0x80))
SPANS = [
    [
        [sum(DOTS[y][side] for y in range(first, last + 1)) for last in range(4)]
        for first in range(4)
    ]
    for side in range(2)
]
"""side of the cell -> first dot -> last dot -> the bits between them."""
Part = tuple[str, str]


class Canvas:
    """A grid of cells, each of 2 × 4 dots; later drawing is on top."""

    def __init__(self, width: int, height: int) -> None:
        self.width, self.height = max(width, 1), max(height, 1)
        self._dots = [[0] * self.width for _ in range(self.height)]
        self._roles = [[""] * self.width for _ in range(self.height)]
        self._chars: dict[tuple[int, int], Part] = {}

    def dot(self, x: int, y: int, role: str) -> None:
        """Draw one dot; x counts half cells, y quarter cells from the top."""
        column, row = x >> 1, y >> 2
        if 0 <= column < self.width and 0 <= row < self.height:
            self._dots[row][column] |= DOTS[y & 3][x & 1]
            self._roles[row][column] = role

    def column(self, x: int, y0: int, y1: int, role: str) -> None:
        """Draw a vertical line of dots, whole cells at a time."""
        at = x >> 1
        y0, y1 = max(min(y0, y1), 0), min(max(y0, y1), self.height * 4 - 1)
        if not 0 <= at < self.width or y0 > y1:
            return
        side = x & 1
        for row in range(y0 >> 2, (y1 >> 2) + 1):
            first = max(y0 - row * 4, 0)
            last = min(y1 - row * 4, 3)
            self._dots[row][at] |= SPANS[side][first][last]
            self._roles[row][at] = role

    def line(self, x0: int, y0: int, x1: int, y1: int, role: str) -> None:
        """Draw a straight line: steep ones column by column, others by Bresenham."""
        limit = 8 * (self.width + self.height)
        y0, y1 = (max(-limit, min(y, limit)) for y in (y0, y1))
        if abs(y1 - y0) > abs(x1 - x0):
            if x1 < x0:
                x0, y0, x1, y1 = x1, y1, x0, y0
            slope = (y1 - y0) / (x1 - x0 + 1)
            for index in range(x1 - x0 + 1):
                start, stop = y0 + round(slope * index), y0 + round(slope * (index + 1))
                self.column(x0 + index, start, y1 if index == x1 - x0 else stop, role)
            return
        dx, dy = abs(x1 - x0), -abs(y1 - y0)
        step_x, step_y = (1 if x1 > x0 else -1), (1 if y1 > y0 else -1)
        error = dx + dy
        while True:
            self.dot(x0, y0, role)
            if x0 == x1 and y0 == y1:
                return
            twice = 2 * error
            if twice >= dy:
                error += dy
                x0 += step_x
            if twice <= dx:
                error += dx
                y0 += step_y

    def put(self, x: int, y: int, text: str, role: str = "") -> None:
        """Write characters from a cell on, cut at the edge."""
        for offset, char in enumerate(text):
            if 0 <= x + offset < self.width and 0 <= y < self.height:
                self._chars[x + offset, y] = (char, role)

    def free(self, x: int, y: int, length: int) -> bool:
        """Return whether the cells have no characters yet."""
        inside = x >= 0 and x + length <= self.width and 0 <= y < self.height
        return inside and not any((x + i, y) in self._chars for i in range(length))

    def row(self, y: int) -> list[Part]:
        """Return one line as text with roles, with equal roles merged."""
        parts: list[Part] = []
        for x in range(self.width):
            char = self._chars.get((x, y))
            if char is None:
                bits = self._dots[y][x]
                char = (chr(0x2800 + bits), self._roles[y][x]) if bits else (" ", "")
            if parts and parts[-1][1] == char[1]:
                parts[-1] = (parts[-1][0] + char[0], char[1])
            else:
                parts.append(char)
        return parts


class Scale:
    """A mapping from values to dots: linear or logarithmic, forwards or reversed."""

    def __init__(
        self,
        low: float,
        high: float,
        size: int,
        *,
        log: bool = False,
        reverse: bool = False,
        whole: bool = False,
    ) -> None:
        """Create the scale; `whole` is for counts, whose ticks are whole and never negative."""
        self.log, self.whole = log and low > 0, whole
        if whole and not high > low:
            low, high = max(low - 1, 0.0), max(low, 0.0) + 1
        # A constant that was smoothed differs by rounding, which a logarithm may not tell apart.
        if not high - low > abs(high) * 1e-12:
            pad = abs(low) * 0.05 or 1.0
            low, high = (low / 1.5, high * 1.5) if self.log else (low - pad, high + pad)
            low = max(low, 0.0) if high - pad >= 0 else low
        self.low, self.high, self.size, self.reverse = low, high, max(size, 2), reverse
        self._a, self._b = self._value(low), self._value(high)

    def _value(self, number: float) -> float:
        return math.log10(number) if self.log else number

    def place(self, number: float) -> int:
        """Return the dot of a value; values outside the scale are outside."""
        if self.log and number <= 0:
            return 0
        share = (self._value(number) - self._a) / (self._b - self._a)
        share = 1 - share if self.reverse else share
        return round(min(max(share, -4.0), 5.0) * (self.size - 1))

    def ticks(self, count: int) -> list[float]:
        """Return about `count` round values inside the scale."""
        if self.log:
            powers = log_ticks(self.low, self.high)
            step = math.ceil(len(powers) / max(count, 1))
            if len(powers) >= 2:
                return powers[::step]
        if self.whole:
            count = max(min(count, int(self.high - self.low)), 1)
            found = [tick for tick in ticks(self.low, self.high, count) if tick == int(tick)]
            return found or [math.ceil(self.low)]
        return ticks(self.low, self.high, count)


def tick_text(value: float, values: Sequence[float]) -> str:
    """Return a tick's label, with just enough digits to differ from its neighbours."""
    biggest = max((abs(v) for v in values), default=abs(value)) or 1.0
    steps = [b - a for a, b in pairwise(values) if b > a]
    step = min(steps, default=biggest)
    exponent = math.floor(math.log10(step) + 1e-9)
    if values and values[0] > 0 and biggest / values[0] >= 50:
        return _short(f"{value:.1g}")
    if biggest >= 1e6 or biggest < 1e-3:
        digits = max(0, math.floor(math.log10(abs(value) or biggest)) - exponent)
        return _short(f"{value:.{digits}e}") if value else "0"
    return f"{value:.{max(0, -exponent)}f}"


def _short(text: str) -> str:
    return text.replace("e-0", "e-").replace("e+0", "e").replace("e+", "e")
