"""What tests of experiments share."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from kdharness.harness.runs import launch
from support.workers import Workers


@pytest.fixture
def workers(monkeypatch: pytest.MonkeyPatch) -> Iterator[Workers]:
    """Runs are started with stand-ins that train nothing."""
    made = Workers()
    monkeypatch.setattr(launch, "spawn_worker", made.spawn)
    # The models of these experiments are names alone.
    monkeypatch.setattr("kdharness.harness.runs.precheck.check_request", lambda *_, **__: None)
    yield made
    for thread in made.threads:
        thread.join(timeout=20)
