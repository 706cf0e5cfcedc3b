"""News of runs while the app is open, and how a terminal is asked to tell of it."""

from __future__ import annotations

import subprocess
import sys
import time
from typing import Any

import pytest

from kdharness.harness.paths import Paths
from kdharness.harness.store import Store
from kdharness.tui.app import HarnessApp
from kdharness.tui.terminal import notification
from support.app import SMALL, AppOn, Press, Shown
from support.tui_home import add_past_run


@pytest.mark.parametrize(
    ("environ", "sequence"),
    [
        ({"TERM": "xterm-256color"}, "\a\x1b]9;kdharness: kd failed\a"),
        ({"TERM": "xterm", "VTE_VERSION": "7200"}, "\a\x1b]777;notify;kdharness;kd failed\a"),
        ({"TERM": "foot"}, "\a\x1b]777;notify;kdharness;kd failed\a"),
        (
            {"TERM": "tmux-256color", "TMUX": "/tmp/tmux-0/default,1,0"},
            "\a\x1bPtmux;\x1b\x1b]9;kdharness: kd failed\a\x1b\\",
        ),
        ({"TERM": "screen", "STY": "1.a"}, "\a\x1bP\x1b]9;kdharness: kd failed\a\x1b\\"),
        ({"TERM": "linux"}, "\a"),
        ({}, "\a"),
    ],
)
def test_a_terminal_is_asked_once_in_its_own_way(environ: dict[str, str], sequence: str) -> None:
    """As in public reports of notifications that tmux swallowed."""
    assert notification("kd failed", environ) == sequence


@pytest.mark.parametrize(
    "text", ["a\x1b\\\x1b]52;c;aGk=\a", "a\nb\x07c", "x\x9c\u202ey", "k" * 999]
)
@pytest.mark.parametrize("environ", [{"TERM": "xterm"}, {"TERM": "tmux", "TMUX": "1"}])
def test_a_runs_name_cannot_drive_the_terminal(text: str, environ: dict[str, str]) -> None:
    sequence = notification(text, environ)
    assert sequence.count("\a") == 2 and len(sequence) < 400
    inner = sequence.replace("\x1b\x1b", "\x1b")
    assert inner.count("\x1b") == (3 if "TMUX" in environ else 1)
    assert all(char not in sequence for char in "\n\x9c\u202e")


@pytest.fixture
def rung(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """What the terminal was asked to tell."""
    texts: list[str] = []
    monkeypatch.setattr(HarnessApp, "ring", lambda _, text: texts.append(text))
    return texts


def end(paths: Paths, run: str, status: str, error: str = "") -> None:
    """Let a run end as its worker would."""
    with Store(paths.store) as store:
        store.update_run(run, status=status, error=error)
        store.add_event(run, "ended", error or status)


async def test_ends_and_alerts_are_told_on_any_screen(
    filled: Paths, app_on: AppOn, press: Press, notified: Shown, rung: list[str]
) -> None:
    app = app_on(filled)
    async with app.run_test(size=SMALL) as pilot:
        await press(pilot, "2")
        app.follow()
        assert rung == [] and notified(app) == ""
        with Store(filled.store) as store:
            store.add_event("dae", "alert", "loss is 9, above 5", rule="loss > 5")
        end(filled, "dae", "failed", "out of memory\nTraceback")
        app.follow()
        await press(pilot)
        assert rung == ["dae: loss is 9, above 5", "dae failed: out of memory"]
        assert "dae failed: out of memory" in notified(app)
        end(filled, "kd", "stopped")
        end(filled, "sft", "finished")
        app.follow()
        app.follow()
        await press(pilot)
        assert rung[2:] == ["sft finished"] and "kd stopped" in notified(app)


async def test_runs_of_an_experiment_are_news_only_if_they_fail(
    filled: Paths, app_on: AppOn, press: Press, notified: Shown, rung: list[str]
) -> None:
    """As in a public report of a notification for every step of a sweep."""
    with Store(filled.store) as store:
        for name in ("part-1", "part-2"):
            add_past_run(store, name, "kd", 9, info={"in_experiment": True})
    app = app_on(filled)
    async with app.run_test(size=SMALL) as pilot:
        await press(pilot)
        end(filled, "part-1", "finished")
        end(filled, "part-2", "failed", "no space")
        app.follow()
        await press(pilot)
        assert rung == ["part-2 failed: no space"] and "part-1" not in notified(app)


async def test_events_of_a_merged_home_are_no_news_and_many_are_summed_up(
    filled: Paths, app_on: AppOn, press: Press, notified: Shown, rung: list[str]
) -> None:
    app = app_on(filled)
    async with app.run_test(size=SMALL) as pilot:
        await press(pilot)
        with Store(filled.store) as store:
            old = time.time() - 86_400
            store.add_progress("kd", events=[(old, "ended", "finished", {})])
        app.follow()
        assert rung == []
        for _ in range(7):
            end(filled, "sft", "finished")
        app.follow()
        await press(pilot)
        assert len(rung) == 4 and "3 more have ended" in notified(app)


async def test_a_worker_that_was_killed_is_told_by_the_app_once(
    filled: Paths,
    app_on: AppOn,
    press: Press,
    rung: list[str],
    settled: Any,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    told: list[str] = []

    def tell(paths: object, store: object, run: Any, state: str, message: str) -> None:
        told.append(message)

    monkeypatch.setattr("kdharness.harness.runs.notify.tell", tell)
    process = subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE)
    with Store(filled.store) as store:
        store.update_run("dae", pid=process.pid, pid_started=None)
    app, other = app_on(filled), app_on(filled)
    async with app.run_test(size=SMALL) as pilot, other.run_test(size=SMALL) as second:
        for one, its in ((app, pilot), (other, second)):
            await press(its)
            one.follow()
        process.kill()
        process.wait()
        for one, its in ((app, pilot), (other, second), (app, pilot)):
            one.follow()
            await settled(its)
    assert len(rung) == 2 and "dae interrupted: its process is gone" in rung[0]
    assert told == ["dae interrupted"]
    with Store(filled.store) as store:
        assert store.events("dae")[-1]["kind"] == "interrupted"


async def test_settings_can_keep_the_terminal_silent(
    filled: Paths, app_on: AppOn, press: Press, monkeypatch: pytest.MonkeyPatch
) -> None:
    written: list[str] = []
    filled.settings.write_text("notify: {terminal: false}\n")
    for silent in (True, False):
        app = app_on(filled)
        monkeypatch.setattr(HarnessApp, "is_headless", False)
        async with app.run_test(size=SMALL) as pilot:
            await press(pilot)
            assert app._driver is not None
            monkeypatch.setattr(app._driver, "write", written.append)
            app.ring("kd finished")
        assert bool(written) is not silent
        filled.settings.write_text("notify: say\n")
