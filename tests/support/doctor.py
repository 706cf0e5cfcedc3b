"""Helpers of the doctor tests."""

from __future__ import annotations

from typing import Any

import pytest

from kdharness.harness.doctor.finding import CheckResult

Env = pytest.MonkeyPatch


def says(finding: CheckResult, status: str, detail: str, advice: str) -> None:
    """Assert the status, detail and advice of a check result."""
    assert (finding.status, detail in finding.detail, advice in finding.advice) == (
        status,
        True,
        True,
    ), finding


def one(findings: Any, check: str) -> CheckResult:
    """Return the single result of a check."""
    matching = [finding for finding in findings if finding.check == check]
    assert len(matching) == 1, list(findings)
    return matching[0]
