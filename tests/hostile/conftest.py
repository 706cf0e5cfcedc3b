"""Limits for hostile inputs: a test that takes a gigabyte or hangs fails."""

from __future__ import annotations

import signal
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, settings

from support.planted_keys import KEYS

resource = pytest.importorskip("resource", reason="limits of a process need a Unix")

MEMORY_BYTES = 2**30
SECONDS = {False: 60, True: 240}

settings.register_profile(
    "hostile",
    deadline=None,
    max_examples=120,
    derandomize=True,
    print_blob=True,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)


def _address_space() -> int:
    pages = int(Path("/proc/self/statm").read_text("utf-8").split()[0])
    return pages * resource.getpagesize()


@pytest.fixture(autouse=True)
def resource_limits(request: pytest.FixtureRequest) -> Iterator[None]:
    """Limit the test to one more gigabyte of address space and to a minute.

    Slow tests get four minutes, and those that train use `unlimited_memory`.
    """
    slow = request.node.get_closest_marker("slow") is not None
    # Imported first, so that memory mapped by library imports is not counted.
    import torch  # noqa: F401
    import transformers  # noqa: F401

    soft, hard = resource.getrlimit(resource.RLIMIT_AS)

    def time_out(*_: Any) -> None:
        raise TimeoutError(f"still at it after {SECONDS[slow]} s")

    before = signal.signal(signal.SIGALRM, time_out)
    if "unlimited_memory" not in request.fixturenames:
        resource.setrlimit(resource.RLIMIT_AS, (_address_space() + MEMORY_BYTES, hard))
    signal.alarm(SECONDS[slow])
    try:
        yield
    finally:
        signal.alarm(0)
        signal.signal(signal.SIGALRM, before)
        resource.setrlimit(resource.RLIMIT_AS, (soft, hard))


@pytest.fixture
def unlimited_memory() -> None:
    """Lift the limit of memory, for a test that trains."""


@pytest.fixture
def planted_keys(monkeypatch: pytest.MonkeyPatch) -> dict[str, str]:
    """Set the planted keys in the environment of this process and its children."""
    for name, value in KEYS.items():
        monkeypatch.setenv(name, value)
    return KEYS
