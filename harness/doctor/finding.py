"""One line of `kdharness doctor`: what was looked at, how it stands, and what to do about it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal


@dataclass(frozen=True)
class CheckResult:
    """`note` is worth knowing and stops nothing; `broken` stops work. Both say what to do."""

    check: str
    status: Literal["ok", "note", "broken"]
    detail: str
    advice: str = ""


def ok(check: str, detail: str) -> CheckResult:
    """Nothing to do."""
    return CheckResult(check, "ok", detail)


def warn(check: str, detail: str, advice: str) -> CheckResult:
    """Worth knowing."""
    return CheckResult(check, "note", detail, advice)


def fail(check: str, detail: str, advice: str) -> CheckResult:
    """Stops work."""
    return CheckResult(check, "broken", detail, advice)
