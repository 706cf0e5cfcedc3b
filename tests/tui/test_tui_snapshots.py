"""Pictures of the screens at the two sizes they are made for."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from textual.pilot import Pilot

from kdharness.harness.paths import Paths
from kdharness.tui.app import HarnessApp

AppOn = Callable[[Paths], HarnessApp]
SMALL, LARGE = (80, 24), (120, 40)
SIZES = pytest.mark.parametrize("size", [SMALL, LARGE], ids=["80x24", "120x40"])


def keys(*names: str) -> Callable[[Pilot[None]], Any]:
    """Press keys, and wait for what they started."""

    async def press(pilot: Pilot[None]) -> None:
        for name in names:
            await pilot.press(name)
            await pilot.app.workers.wait_for_complete()
            await pilot.pause()

    return press


@SIZES
def test_runs(snap_compare: Any, filled: Paths, app_on: AppOn, size: tuple[int, int]) -> None:
    assert snap_compare(app_on(filled), terminal_size=size)


@SIZES
def test_leaderboard(snap_compare: Any, filled: Paths, app_on: AppOn, size: Any) -> None:
    assert snap_compare(app_on(filled), terminal_size=size, run_before=keys("2"))


def test_runs_without_colour(
    snap_compare: Any, filled: Paths, app_on: AppOn, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("NO_COLOR", "1")
    assert snap_compare(app_on(filled), terminal_size=SMALL)


def test_leaderboard_light(snap_compare: Any, filled: Paths, app_on: AppOn) -> None:
    filled.settings.write_text("theme: light\n", "utf-8")
    assert snap_compare(app_on(filled), terminal_size=SMALL, run_before=keys("2"))


def test_tour(
    snap_compare: Any, app_on: AppOn, home: Paths, monkeypatch: pytest.MonkeyPatch
) -> None:
    home.home.mkdir()
    monkeypatch.chdir(home.home)
    assert snap_compare(app_on(Paths(Path("my-home"))), terminal_size=SMALL)
