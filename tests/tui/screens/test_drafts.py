"""Drafts of forms, and a start that waits for its estimate."""

from __future__ import annotations

from typing import Any

import pytest

from kdharness.harness.paths import Paths
from kdharness.tui.screens.dialogs import Confirm
from kdharness.tui.screens.evaluate import EvaluateScreen
from kdharness.tui.screens.new_run import NewRunScreen
from support.app import LARGE, AppOn, Press, Shown
from support.forms import move_to

pytestmark = pytest.mark.slow


async def test_a_yes_before_the_estimate_waits_for_it(
    filled: Paths, app_on: AppOn, press: Press
) -> None:
    answers: list[bool | None] = []
    app = app_on(filled)
    async with app.run_test(size=LARGE) as pilot:
        for stops, answer in ((True, []), (False, [True])):
            dialog = Confirm("Start?", "estimating …", waits=True)
            app.push_screen(dialog, answers.append)
            await press(pilot, "y")
            assert app.screen is dialog
            dialog.tell("✗ broken" if stops else "about 1:00", stops=stops)
            await press(pilot)
            assert answers == answer
            if stops:
                await press(pilot, "y")
                assert app.screen is dialog
                await press(pilot, "n")
                assert answers.pop() is False


@pytest.mark.parametrize("keys", [("escape",), ("f6", "1"), ()], ids=["esc", "another", "quit"])
async def test_a_draft_survives_leaving_the_form(
    filled: Paths, app_on: AppOn, press: Press, notified: Shown, keys: tuple[str, ...]
) -> None:
    """A digit on a number edits it instead of leaving the form."""
    app = app_on(filled)
    async with app.run_test(size=LARGE) as pilot:
        await press(pilot, "n")
        move_to(app, "trainer.epochs")
        await press(pilot, "1", "7", "enter")
        assert isinstance(app.screen, NewRunScreen)
        assert app.screen.values["trainer"]["epochs"] == 17
        await press(pilot, *keys)
        if keys:
            await press(pilot, "n")
            assert isinstance(app.screen, NewRunScreen)
            assert app.screen.values["trainer"]["epochs"] == 17 and "draft" in notified(app)
    again = app_on(filled)
    async with again.run_test(size=LARGE) as pilot:
        await press(pilot, "n")
        assert isinstance(again.screen, NewRunScreen)
        assert again.screen.values["trainer"]["epochs"] == 17
        move_to(again, "name")
        await press(pilot, "5")
        assert again.screen.place == "transcripts"  # type: ignore[attr-defined]


async def test_a_draft_of_an_evaluation_survives_the_app(
    filled: Paths, app_on: AppOn, press: Press
) -> None:
    app = app_on(filled)
    async with app.run_test(size=LARGE) as pilot:
        await press(pilot, "6")
        move_to(app, "limit")
        await press(pilot, "4", "enter")
    again = app_on(filled)
    async with again.run_test(size=LARGE) as pilot:
        await press(pilot, "6")
        assert isinstance(again.screen, EvaluateScreen) and again.screen.values["limit"] == 4
        await again.open_evaluate(["kd"])
        assert again.screen.values["checkpoints"] == ["kd"]


async def test_a_started_draft_is_gone_and_an_untouched_form_leaves_none(
    filled: Paths, app_on: AppOn, press: Press, started: list[Any]
) -> None:
    app = app_on(filled)
    async with app.run_test(size=LARGE) as pilot:
        await press(pilot, "n", "escape")
        assert not (filled.home / "drafts.json").exists()
        await press(pilot, "n", "m", "home", "enter", "escape")
        await press(pilot, "n", "s")
        assert isinstance(app.screen, Confirm)
        await press(pilot, "y", "escape", "n")
        assert started and isinstance(app.screen, NewRunScreen)
        assert app.screen.values == app.screen.base
