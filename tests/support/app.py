"""The app under test: its two sizes, and what its fixtures are."""

from __future__ import annotations

import subprocess
from collections.abc import Awaitable, Callable
from typing import Any

from kdharness.harness.paths import Paths
from kdharness.tui.app import HarnessApp

SMALL, LARGE = (80, 24), (120, 40)
AppOn = Callable[[Paths], HarnessApp]
Shown = Callable[[HarnessApp], str]
Press = Callable[..., Awaitable[None]]


def answered(code: int, out: str = "", err: str = "") -> Callable[..., Any]:
    """A stand-in for our own command in another process."""
    return lambda home, *words: subprocess.CompletedProcess(words, code, out, err)
