"""The ticks of an axis, which are round numbers, and places along it."""

from __future__ import annotations

import math


def ticks(low: float, high: float, count: int = 5) -> list[float]:
    """Return about `count` multiples of 1, 2 or 5 times a power of ten."""
    span = high - low
    if count < 1 or not (span > 0 and math.isfinite(span)):
        return [low]
    rough = span / count
    power = 10.0 ** math.floor(math.log10(rough))
    step = next(m * power for m in (1, 2, 5, 10) if m * power >= rough * 0.999)
    first = math.ceil(low / step - 1e-9)
    last = math.floor(high / step + 1e-9)
    return [float(f"{i * step:.12g}") for i in range(first, last + 1)]


def log_ticks(low: float, high: float) -> list[float]:
    """Return powers of ten, with twos and fives if the scale is short."""
    first, last = math.floor(math.log10(low)), math.ceil(math.log10(high))
    parts = (1,) if last - first > 3 else (1, 2, 5)
    values = [m * 10.0**e for e in range(first, last + 1) for m in parts]
    return [value for value in values if low * 0.999 <= value <= high * 1.001]


def share_of_axis(value: float, low: float, high: float) -> float:
    """Return where a value is between the ends of an axis, 0 to 1 within them.

    An infinite value is at an end; on an axis without length every value is at the start.
    """
    if not math.isfinite(value):
        return 1.0 if value > 0 else 0.0
    return (value - low) / (high - low) if high > low else 0.0
