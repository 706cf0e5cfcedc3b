"""Fixtures for the tests of experiments."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from kdharness.harness.runs import launch
from support.workers import Workers


@pytest.fixture
def workers(monkeypatch: pytest.MonkeyPatch) -> Iterator[Workers]:
    """Start runs with stand-in workers that train nothing."""
    stand_ins = Workers()
    monkeypatch.setattr(launch, "spawn_worker", stand_ins.spawn)
    # The models of these experiments exist only as names.
    monkeypatch.setattr("kdharness.harness.runs.precheck.check_request", lambda *_, **__: None)
    yield stand_ins
    for thread in stand_ins.threads:
        thread.join(timeout=20)
