"""No test here may pass while it takes a gigabyte or hangs: both end it."""

from __future__ import annotations

import signal
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, settings

from support.planted_keys import KEYS

resource = pytest.importorskip("resource", reason="limits of a process need a Unix")

ROOM = 2**30
SECONDS = {False: 30, True: 120}

settings.register_profile(
    "hostile",
    deadline=3000,
    max_examples=120,
    derandomize=True,
    print_blob=True,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)


def _address_space() -> int:
    pages = int(Path("/proc/self/statm").read_text("utf-8").split()[0])
    return pages * resource.getpagesize()


@pytest.fixture(autouse=True)
def confined(request: pytest.FixtureRequest) -> Iterator[None]:
    """At most a gigabyte more than there is now, and half a minute."""
    slow = request.node.get_closest_marker("slow") is not None
    # What a library maps when it is first loaded is not what an input costs.
    import torch  # noqa: F401
    import transformers  # noqa: F401

    soft, hard = resource.getrlimit(resource.RLIMIT_AS)

    def late(*_: Any) -> None:
        raise TimeoutError(f"still at it after {SECONDS[slow]} s")

    before = signal.signal(signal.SIGALRM, late)
    if not slow:
        resource.setrlimit(resource.RLIMIT_AS, (_address_space() + ROOM, hard))
    signal.alarm(SECONDS[slow])
    try:
        yield
    finally:
        signal.alarm(0)
        signal.signal(signal.SIGALRM, before)
        resource.setrlimit(resource.RLIMIT_AS, (soft, hard))


@pytest.fixture
def planted_keys(monkeypatch: pytest.MonkeyPatch) -> dict[str, str]:
    """The keys, in this process's environment and in that of what it starts."""
    for name, value in KEYS.items():
        monkeypatch.setenv(name, value)
    return KEYS
