"""The judges, assets and doctor screens by keyboard, with commands in other processes."""

from __future__ import annotations

import json
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from textual.widgets import Input

from kdharness.harness.errors import AssetError
from kdharness.harness.paths import Paths
from kdharness.harness.store import Store
from kdharness.harness.types import Judgment, JudgmentStatus
from kdharness.tui.screens.judges import JudgesScreen
from kdharness.tui.widgets.form_sheet import FormSheet
from kdharness.tui.widgets.table import Listing
from support.app import LARGE, AppOn, Press, Shown, answered, notifications

pytestmark = pytest.mark.slow


async def test_judge_is_checked_in_another_process(
    filled: Paths,
    app_on: AppOn,
    shown: Shown,
    notified: Shown,
    press: Press,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    calls: list[tuple[str, ...]] = []

    def run(home: Path, *args: str) -> Any:
        calls.append(args)
        with Store(filled.store) as store:
            store.add_card(
                "openai:judge-x",
                {
                    "labels": [],
                    "checks": {"tells_all": {"share": 0.9, "low": 0.8, "high": 0.97, "n": 24}},
                    "created": 1.0,
                },
            )
        return subprocess.CompletedProcess(args, 0, "[]", "")

    monkeypatch.setattr("kdharness.tui.commands.run_command", run)
    app = app_on(filled)
    async with app.run_test(size=(80, 24)) as pilot:
        await press(pilot, "7")
        assert "near-chance" in shown(app)
        await press(pilot, "c", "y")
        await pilot.pause()
        assert calls == [("judge", "check", "openai:judge-x", "--format", "json")]
        assert "90%" in shown(app) and "├" in shown(app)
        monkeypatch.setattr(
            "kdharness.tui.commands.run_command", answered(1, err="error: no network\n")
        )
        await press(pilot, "a")
        app.screen.query_one("#line", Input).value = "nonsense"
        await press(pilot, "enter")
        assert "is not a valid judge spec" in shown(app)
        app.screen.query_one("#line", Input).value = "openai:other"
        await press(pilot, "enter", "y")
        assert "no network" in notified(app)


async def test_imported_judge_is_listed_but_cannot_be_checked_or_chosen(
    filled: Paths,
    app_on: AppOn,
    shown: Shown,
    notified: Shown,
    press: Press,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    with Store(filled.store) as store:
        store.add_judgments(
            [
                Judgment(
                    id="imported-1",
                    checkpoint="id-kd",
                    bench="mt-bench",
                    revision="r1",
                    item="q1",
                    turn=1,
                    category="writing",
                    judge="imported:gpt-4",
                    metric="rating",
                    status=JudgmentStatus.OK,
                    created=1.0,
                    value=8.0,
                )
            ]
        )
    monkeypatch.setattr(
        "kdharness.tui.commands.run_command", lambda *_: pytest.fail("a command was run")
    )
    app = app_on(filled)
    async with app.run_test(size=LARGE) as pilot:
        await press(pilot, "7", "home", "c")
        assert "imported:gpt-4" in shown(app) and "untested: no report card yet" in shown(app)
        assert "imported:gpt-4 cannot be checked" in notified(app)
        assert "Check imported:gpt-4?" not in shown(app)
        await press(pilot, "6")
        sheet = app.screen.query_one(FormSheet)
        sheet.move_to([row["id"] for row in sheet.rows].index("judge"))
        await press(pilot, "o")
        offered = [row["id"] for row in app.screen.query_one("#choices", Listing).rows]
        assert "openai:judge-x" in offered and "imported:gpt-4" not in offered


async def test_each_broken_settings_version_is_notified_once(
    filled: Paths, app_on: AppOn, press: Press
) -> None:
    def settings_notifications() -> int:
        return sum("settings.yaml" in note for note in notifications(app))

    filled.settings.write_text("judge: [a\n", "utf-8")
    app = app_on(filled)
    async with app.run_test(size=LARGE) as pilot:
        at_start = settings_notifications()
        await press(pilot, "7")
        screen = app.screen
        assert isinstance(screen, JudgesScreen) and settings_notifications() == at_start + 1
        screen.store_changed()
        screen.store_changed()
        await pilot.pause()
        assert settings_notifications() == at_start + 1
        filled.settings.write_text("judge: {a: 1}\n", "utf-8")
        screen.store_changed()
        screen.store_changed()
        await pilot.pause()
        assert settings_notifications() == at_start + 2
        filled.settings.write_text("judge: openai:default\n", "utf-8")
        screen.store_changed()
        assert "openai:default" in [row["id"] for row in screen.listing().rows]
        filled.settings.write_text("judge: {a: 1}\n", "utf-8")
        screen.store_changed()
        await pilot.pause()
        assert settings_notifications() == at_start + 3


async def test_assets_are_pulled_in_a_thread(
    filled: Paths,
    app_on: AppOn,
    shown: Shown,
    notified: Shown,
    press: Press,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def pull(paths: Paths, name: str, *, say: Callable[[str], None]) -> Path:
        say(f"{name}: from PyPI, licence X")
        if name == "alpaca-eval":
            raise AssetError("no network", hint="get it yourself")
        return paths.assets

    monkeypatch.setattr("kdharness.harness.assets.pull", pull)
    app = app_on(filled)
    async with app.run_test(size=(80, 24)) as pilot:
        await press(pilot, "8", "p")
        assert "from PyPI, licence X" in shown(app) and "✓ pulled" in shown(app)
        await press(pilot, "down", "enter")
        assert "no network" in notified(app) and "get it yourself" in notified(app)
        await press(pilot, "v")
        assert "missing" in shown(app)


async def test_doctor_screen_runs_the_doctor_command(
    filled: Paths,
    app_on: AppOn,
    shown: Shown,
    notified: Shown,
    press: Press,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    rows = [
        {"check": "python", "status": "ok", "detail": "3.11", "advice": ""},
        {
            "check": "memory",
            "status": "note",
            "detail": "1 of 8 GiB free",
            "advice": "close other programs",
        },
    ]
    monkeypatch.setattr("kdharness.tui.commands.run_command", answered(0, json.dumps(rows)))
    app = app_on(filled)
    async with app.run_test(size=(80, 24)) as pilot:
        await press(pilot, "9")
        assert "1 of 8 GiB free" in shown(app)
        assert "→ close other programs" in shown(app), "what is not ok comes first"
        monkeypatch.setattr("kdharness.tui.commands.run_command", answered(1, "", "boom"))
        await press(pilot, "r")
        assert "boom" in notified(app)
