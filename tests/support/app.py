"""The app under test: its two sizes, the types of its fixtures, and its painted screen."""

from __future__ import annotations

import subprocess
from collections.abc import Awaitable, Callable
from typing import Any

from rich.console import Console
from textual.strip import Strip

from kdharness.harness.paths import Paths
from kdharness.tui.app import HarnessApp
from kdharness.tui.viewmodels.drawings import Series
from kdharness.tui.widgets.chart_grid import ChartGrid

SMALL, LARGE = (80, 24), (120, 40)
AppOn = Callable[[Paths], HarnessApp]
Shown = Callable[[HarnessApp], str]
Press = Callable[..., Awaitable[None]]


def painted(app: HarnessApp) -> list[Strip]:
    """Read the screen line by line; Textual has no public API for it."""
    return app.screen._compositor.render_strips()


def help_page(app: HarnessApp) -> str:
    """Return the whole page of text that is on top, also what is scrolled out."""
    console = Console(width=100)
    with console.capture() as captured:
        console.print(app.screen.text)  # type: ignore[attr-defined]
    return captured.get()


def notifications(app: HarnessApp) -> list[str]:
    """Read the notifications; Textual has no public API for them."""
    return [note.message for note in app._notifications]


def answered(code: int, out: str = "", err: str = "") -> Callable[..., Any]:
    """Return a stub for a kdharness command in another process."""
    return lambda home, *words: subprocess.CompletedProcess(words, code, out, err)


def curves_of(grid: ChartGrid) -> list[Series]:
    """Return the curves of the chosen chart, without the marks over them."""
    return [series for series in grid.chosen.series if not series.glyph]
