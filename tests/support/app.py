"""The app under test: its two sizes, what its fixtures are, and what it painted."""

from __future__ import annotations

import subprocess
from collections.abc import Awaitable, Callable
from typing import Any

from textual.strip import Strip

from kdharness.harness.paths import Paths
from kdharness.tui.app import HarnessApp

SMALL, LARGE = (80, 24), (120, 40)
AppOn = Callable[[Paths], HarnessApp]
Shown = Callable[[HarnessApp], str]
Press = Callable[..., Awaitable[None]]


def painted(app: HarnessApp) -> list[Strip]:
    """Read the screen back, line by line: Textual has no public way."""
    return app.screen._compositor.render_strips()


def notifications(app: HarnessApp) -> list[str]:
    """What the app has said in passing: Textual has no public way here either."""
    return [note.message for note in app._notifications]


def answered(code: int, out: str = "", err: str = "") -> Callable[..., Any]:
    """A stand-in for our own command in another process."""
    return lambda home, *words: subprocess.CompletedProcess(words, code, out, err)
