"""What the tests of the doctor share."""

from __future__ import annotations

from typing import Any

import pytest

from kdharness.harness.doctor.finding import CheckResult

Env = pytest.MonkeyPatch


def says(finding: CheckResult, status: str, detail: str, advice: str) -> None:
    assert (finding.status, detail in finding.detail, advice in finding.advice) == (
        status,
        True,
        True,
    ), finding


def one(findings: Any, check: str) -> CheckResult:
    found = [finding for finding in findings if finding.check == check]
    assert len(found) == 1, list(findings)
    return found[0]


@pytest.fixture(autouse=True)
def quiet(monkeypatch: Env) -> None:
    """Nothing of the machine that runs the tests."""
    for name in (
        "OMP_NUM_THREADS",
        "CUDA_VISIBLE_DEVICES",
        "HF_TOKEN",
        "HF_HOME",
        "KDHARNESS_ASSETS",
        "KDHARNESS_JOURNAL_MODE",
        "OPENAI_BASE_URL",
        "HTTP_PROXY",
        "HTTPS_PROXY",
        "ALL_PROXY",
        "http_proxy",
        "https_proxy",
        "all_proxy",
        "NO_PROXY",
        "no_proxy",
        "KDHARNESS_JUDGE",
    ):
        monkeypatch.delenv(name, raising=False)
