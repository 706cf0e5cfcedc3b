"""One row of `kdharness doctor`: what was checked, its status, and what to do about it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal


@dataclass(frozen=True)
class CheckResult:
    """The result of one check: `note` is a warning, `broken` stops work; both have advice."""

    check: str
    status: Literal["ok", "note", "broken"]
    detail: str
    advice: str = ""


def ok(check: str, detail: str) -> CheckResult:
    """Return a result that needs no action."""
    return CheckResult(check, "ok", detail)


def warn(check: str, detail: str, advice: str) -> CheckResult:
    """Return a warning, which stops nothing."""
    return CheckResult(check, "note", detail, advice)


def fail(check: str, detail: str, advice: str) -> CheckResult:
    """Return a result that stops work."""
    return CheckResult(check, "broken", detail, advice)
