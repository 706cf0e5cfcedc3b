"""One line of `kdharness doctor`: what was looked at, how it stands, and what to do about it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal


@dataclass(frozen=True)
class Finding:
    """`note` is worth knowing and stops nothing; `broken` stops work. Both say what to do."""

    check: str
    status: Literal["ok", "note", "broken"]
    detail: str
    advice: str = ""


def fine(check: str, detail: str) -> Finding:
    """Nothing to do."""
    return Finding(check, "ok", detail)


def note(check: str, detail: str, advice: str) -> Finding:
    """Worth knowing."""
    return Finding(check, "note", detail, advice)


def broken(check: str, detail: str, advice: str) -> Finding:
    """Stops work."""
    return Finding(check, "broken", detail, advice)
