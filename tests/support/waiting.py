"""Waiting for other processes and threads."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any


def wait_until(ready: Callable[[], Any], seconds: float = 120.0) -> Any:
    """Wait until `ready` returns a true value, and return that value."""
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        if value := ready():
            return value
        time.sleep(0.02)
    raise TimeoutError(f"it did not come to that in {seconds} s")
