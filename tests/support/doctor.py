"""What the tests of the doctor share."""

from __future__ import annotations

from typing import Any

import pytest

from kdharness.harness.doctor.finding import CheckResult

Env = pytest.MonkeyPatch


def says(finding: CheckResult, status: str, detail: str, advice: str) -> None:
    """Assert what a finding is and says."""
    assert (finding.status, detail in finding.detail, advice in finding.advice) == (
        status,
        True,
        True,
    ), finding


def one(findings: Any, check: str) -> CheckResult:
    """Return the one finding of a check."""
    found = [finding for finding in findings if finding.check == check]
    assert len(found) == 1, list(findings)
    return found[0]
