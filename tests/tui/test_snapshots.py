"""Snapshots of the screens at the two supported sizes."""

from __future__ import annotations

import json
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from textual.pilot import Pilot
from textual.widgets import Input

from kdharness.harness.paths import Paths
from support.app import LARGE, SMALL, AppOn

pytestmark = pytest.mark.slow

SIZES = pytest.mark.parametrize("size", [SMALL, LARGE], ids=["80x24", "120x40"])


BESIDE = pytest.mark.parametrize("size", [(200, 60), (60, 15)], ids=["200x60", "60x15"])


def keys(*names: str) -> Callable[[Pilot[None]], Any]:
    """Return a callback that presses keys and waits for background work."""

    async def press(pilot: Pilot[None]) -> None:
        async def settle() -> None:
            await pilot.pause()
            while getattr(pilot.app, "busy", False):
                await pilot.pause(0.01)

        await settle()
        for name in names:
            await pilot.press(name)
            await settle()
        # Details beside a list are read a moment after the last key.
        # What a thread has read may start the next one.
        for wait in (0.12, 0.04, 0.04):
            await pilot.pause(wait)
            await settle()
        for line in pilot.app.screen.query(Input):
            line.cursor_blink = False
        await pilot.pause()

    return press


@SIZES
def test_runs(snap_compare: Any, filled: Paths, app_on: AppOn, size: tuple[int, int]) -> None:
    assert snap_compare(app_on(filled), terminal_size=size, run_before=keys("end"))


@BESIDE
@pytest.mark.parametrize("name", ["runs", "leaderboard", "tradeoff", "run"])
def test_very_large_and_very_small(
    snap_compare: Any, filled: Paths, app_on: AppOn, size: tuple[int, int], name: str
) -> None:
    press = {"runs": ("end",), "leaderboard": ("2",), **SCREENS}[name]
    assert snap_compare(app_on(filled), terminal_size=size, run_before=keys(*press))


@SIZES
def test_leaderboard(snap_compare: Any, filled: Paths, app_on: AppOn, size: Any) -> None:
    assert snap_compare(app_on(filled), terminal_size=size, run_before=keys("2"))


SCREENS = {
    "tradeoff": ("3",),
    "compare": ("4",),
    "transcripts": ("5", "b", "up", "enter", "right"),
    "labelling": ("5", "b", "up", "enter", "L"),
    "evaluate": ("6",),
    "judges": ("7",),
    "assets": ("8",),
    "doctor": ("9",),
    "new-run": ("n",),
    "run": ("slash", "k", "d", "enter", "end", "enter", "down"),
    "chart": ("slash", "k", "d", "enter", "end", "enter", "enter"),
    "summary": ("slash", "k", "d", "enter", "end", "enter", "s"),
    "details": ("2", "down", "enter"),
    "groups": ("G", "down", "down", "enter", "down"),
    "palette": ("ctrl+p",),
    "help": ("f1",),
    "lineage": ("down", "down", "enter", "i"),
    "log": ("down", "down", "enter", "g"),
    "presets": ("n", "p"),
    "flips": ("4", "l"),
    "queue": ("Q",),
    "delete": ("end", "d"),
    "note": ("end", "N", "a", "enter", "b"),
    "log-search": ("down", "down", "enter", "g", "slash", "r", "o", "w", "s", "enter"),
}


SMALL_ONLY = (
    *("chart", "summary", "details", "groups"),
    *("palette", "help", "lineage", "log", "presets", "flips"),
    *("queue", "delete", "note", "log-search"),
)
"""Tabs and dialogs, with snapshots at the small size only."""


@pytest.mark.parametrize(
    ("name", "size"),
    [
        (name, size)
        for name in SCREENS
        for size in (SMALL, LARGE)
        if size == SMALL or name not in SMALL_ONLY
    ],
    ids=lambda value: value if isinstance(value, str) else f"{value[0]}x{value[1]}",
)
def test_screen(
    snap_compare: Any,
    filled: Paths,
    app_on: AppOn,
    size: Any,
    name: str,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    rows = [
        {"check": "python", "status": "ok", "detail": "3.11.7", "advice": ""},
        {"check": "judge", "status": "note", "detail": "none set", "advice": "use --judge"},
    ]
    done = subprocess.CompletedProcess((), 0, json.dumps(rows), "")
    monkeypatch.setattr("kdharness.tui.commands.run_command", lambda *_: done)
    monkeypatch.setattr("socket.gethostname", lambda: "here")
    assert snap_compare(app_on(filled), terminal_size=size, run_before=keys(*SCREENS[name]))


@SIZES
@pytest.mark.parametrize("name", ["plan", "wrong"])
def test_experiments(
    snap_compare: Any, experiment_home: Paths, app_on: AppOn, size: Any, name: str
) -> None:
    press = keys("w", *(["enter", "down"] if name == "plan" else ["down"]))
    assert snap_compare(app_on(experiment_home), terminal_size=size, run_before=press)


def test_experiments_without_colour(
    snap_compare: Any, experiment_home: Paths, app_on: AppOn, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("NO_COLOR", "1")
    assert snap_compare(app_on(experiment_home), terminal_size=SMALL, run_before=keys("w"))


@pytest.mark.parametrize("theme", ["light", "ansi", "high-contrast"])
def test_tradeoff_themes(snap_compare: Any, filled: Paths, app_on: AppOn, theme: str) -> None:
    filled.settings.write_text(f"theme: {theme}\n", "utf-8")
    assert snap_compare(app_on(filled), terminal_size=SMALL, run_before=keys("3"))


@pytest.mark.parametrize("theme", ["light", "ansi", "high-contrast"])
@pytest.mark.parametrize("name", ["runs", "run"])
def test_panes_and_charts_in_themes(
    snap_compare: Any, filled: Paths, app_on: AppOn, theme: str, name: str
) -> None:
    filled.settings.write_text(f"theme: {theme}\n", "utf-8")
    press = {"runs": ("end",), "run": SCREENS["run"]}[name]
    assert snap_compare(app_on(filled), terminal_size=LARGE, run_before=keys(*press))


@pytest.mark.parametrize("name", ["tradeoff", "compare", "new-run", "transcripts", "run"])
def test_screen_without_colour(
    snap_compare: Any, filled: Paths, app_on: AppOn, name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("NO_COLOR", "1")
    assert snap_compare(app_on(filled), terminal_size=SMALL, run_before=keys(*SCREENS[name]))


def test_runs_without_colour(
    snap_compare: Any, filled: Paths, app_on: AppOn, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("NO_COLOR", "1")
    assert snap_compare(app_on(filled), terminal_size=SMALL, run_before=keys())


def test_leaderboard_light(snap_compare: Any, filled: Paths, app_on: AppOn) -> None:
    filled.settings.write_text("theme: light\n", "utf-8")
    assert snap_compare(app_on(filled), terminal_size=SMALL, run_before=keys("2"))


def test_tour(
    snap_compare: Any, app_on: AppOn, home: Paths, monkeypatch: pytest.MonkeyPatch
) -> None:
    home.home.mkdir()
    monkeypatch.chdir(home.home)
    app = app_on(Paths(Path("my-home")))
    assert snap_compare(app, terminal_size=SMALL, run_before=keys())
