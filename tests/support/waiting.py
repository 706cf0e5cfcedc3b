"""Waiting for what other processes and threads do."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any


def wait_until(ready: Callable[[], Any], seconds: float = 120.0) -> Any:
    """Wait until `ready` gives something true, and return it."""
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        if found := ready():
            return found
        time.sleep(0.02)
    raise TimeoutError(f"it did not come to that in {seconds} s")
