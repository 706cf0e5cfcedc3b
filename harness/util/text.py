"""Human-readable numbers, ages and durations."""

from __future__ import annotations

import math
import unicodedata
from collections.abc import Iterator, Mapping, Sequence

_KEEP = frozenset("\n\t")
DASH = "–"


def figure(value: float | None, digits: int = 4) -> str:
    """Format a number for display: few digits, a dash for none."""
    if value is None or math.isnan(value):
        return DASH
    if math.isinf(value):
        return "∞" if value > 0 else "-∞"
    if value and abs(value) < 1e-3:
        return f"{value:.{max(digits - 3, 0)}e}"
    if abs(value) >= 10_000:
        return f"{value:,.0f}"
    text = f"{value:z.{digits}g}"
    return f"{value:.0f}" if "e" in text else text


def age(seconds: float) -> str:
    """Format an age in one unit: `12 s`, `5 min`, `3 h`, `9 d`."""
    seconds = max(0.0, seconds)
    for limit, unit, name in ((60, 1, "s"), (3600, 60, "min"), (86_400, 3600, "h")):
        if seconds < limit:
            return f"{int(seconds // unit)} {name}"
    return f"{int(seconds // 86_400)} d"


def clock(seconds: float | None) -> str:
    """Format seconds as `h:mm:ss` or `m:ss`; empty when unknown."""
    if seconds is None:
        return ""
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02d}:{rest:02d}" if hours else f"{minutes}:{rest:02d}"


def safe_text(text: str, limit: int | None = None) -> str:
    """Escape control and format characters, so that text cannot drive a terminal.

    Covers line and paragraph separators, C0 and C1 controls (ANSI, OSC 8 and 52), bidi
    overrides, zero-width characters and lone surrogates. Newlines and tabs are kept. Characters
    beyond `limit` are counted, not shown. At most eight combining marks are kept per character.
    """
    rest = ""
    if limit is not None and len(text) > limit:
        rest = f"… (+{len(text) - limit} characters)"
        text = text[:limit]
    if text.isascii() and text.isprintable():
        return text + rest
    out: list[str] = []
    marks = 0
    for char in text:
        kind = unicodedata.category(char)
        marks = marks + 1 if kind in {"Mn", "Me"} else 0
        if marks > 8:
            continue
        if char in _KEEP or (kind[0] != "C" and kind not in {"Zl", "Zp"}):
            out.append(char)
        else:
            code = ord(char)
            out.append(f"\\x{code:02x}" if code < 256 else f"\\u{code:04x}")
    return "".join(out) + rest


def listed(names: Sequence[str], limit: int = 5) -> str:
    """Join names with commas; beyond `limit` they are counted."""
    more = f" and {len(names) - limit} more" if len(names) > limit else ""
    return ", ".join(names[:limit]) + more


def texts_in(values: object) -> Iterator[str]:
    """Yield every text in plain data, but no names of fields."""
    if isinstance(values, str):
        yield values
    elif isinstance(values, Mapping):
        for value in values.values():
            yield from texts_in(value)
    elif isinstance(values, (list, tuple)):
        for value in values:
            yield from texts_in(value)
