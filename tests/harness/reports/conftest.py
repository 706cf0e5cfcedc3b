"""Fixtures for the tests of reports and publishing."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from support.hub_server import HubServer

REPO = "me/shop"


@pytest.fixture
def hub(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[HubServer]:
    """Yield a fake hub whose token may write to `REPO`."""
    from huggingface_hub import constants

    server = HubServer(REPO)
    server.use(monkeypatch, tmp_path / "hub-cache")
    monkeypatch.setattr(constants, "HF_HUB_DISABLE_XET", True)
    monkeypatch.setenv("HF_TOKEN", "hf_maywrite")
    yield server
    server.server.shutdown()
