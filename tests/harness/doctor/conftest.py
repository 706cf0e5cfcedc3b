"""Fixtures for the tests of `kdharness doctor`."""

from __future__ import annotations

import pytest


@pytest.fixture(autouse=True)
def clean_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    """Remove environment variables of the machine that runs the tests."""
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
