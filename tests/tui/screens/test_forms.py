"""New run and Evaluate by keyboard, from an empty form to a started run."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from textual import events
from textual.pilot import Pilot
from textual.widgets import Input

from kdharness.harness.config.files import load_config, parse_config
from kdharness.harness.errors import RunError
from kdharness.harness.paths import Paths
from kdharness.tui.app import HarnessApp
from kdharness.tui.screens.evaluate import EvaluateScreen
from kdharness.tui.screens.new_run import NewRunScreen
from kdharness.tui.screens.run import RunScreen
from kdharness.tui.widgets.form_sheet import FormSheet
from support.app import LARGE, AppOn, Press, Shown
from support.forms import canned_plan, move_to

pytestmark = pytest.mark.slow


def row(app: HarnessApp, name: str) -> Any:
    """Return the row of a field."""
    return next(r for r in app.screen.query_one(FormSheet).rows if r["id"] == name)


async def type_value(pilot: Pilot[None], press: Press, text: str, *, enter: bool = True) -> None:
    """Replace the text of the input line, character by character."""
    await press(pilot, "enter")
    pilot.app.screen.query_one("#line", Input).value = ""
    names = {".": "full_stop", "-": "minus", " ": "space", ":": "colon", "_": "underscore"}
    await press(pilot, *(names.get(char, char) for char in text), *(["enter"] if enter else []))


async def test_errors_are_shown_next_to_the_field_while_typing(
    filled: Paths, app_on: AppOn, shown: Shown, press: Press
) -> None:
    app = app_on(filled)
    async with app.run_test(size=LARGE) as pilot:
        await press(pilot, "n")
        assert isinstance(app.screen, NewRunScreen)
        move_to(app, "trainer.learning_rate")
        await type_value(pilot, press, "fast", enter=False)
        assert "valid number" in row(app, "trainer.learning_rate")["error"]
        assert "✗ Input should be a valid number" in shown(app)
        await press(pilot, "escape")
        assert row(app, "trainer.learning_rate")["error"] == ""
        assert row(app, "trainer.learning_rate")["value"] == "0.0003"
        await type_value(pilot, press, "0.001")
        assert app.screen.values["trainer"]["learning_rate"] == 0.001
        assert "learning_rate: 0.001" in shown(app)
        await press(pilot, "d")
        assert "+ 0.001" in shown(app) and "- 0.0003" in shown(app)


async def test_key_right_after_enter_is_not_typed_into_the_field(
    filled: Paths, app_on: AppOn, shown: Shown, press: Press
) -> None:
    app = app_on(filled)
    async with app.run_test(size=LARGE) as pilot:
        await press(pilot, "n")
        move_to(app, "trainer.learning_rate")
        await type_value(pilot, press, "0.002", enter=False)
        for key, character in (("enter", None), ("slash", "/")):
            app.post_message(events.Key(key, character))
        for _ in range(4):
            await pilot.pause()
        form = next(screen for screen in app.screen_stack if isinstance(screen, NewRunScreen))
        assert "Find a field" in shown(app)
        assert form.values["trainer"]["learning_rate"] == 0.002


async def test_form_edits_choices_flags_groups_and_lists(
    filled: Paths, app_on: AppOn, press: Press
) -> None:
    app = app_on(filled)
    async with app.run_test(size=LARGE) as pilot:
        await press(pilot, "n")
        screen = app.screen
        assert isinstance(screen, NewRunScreen)
        move_to(app, "trainer.schedule")
        await press(pilot, "right")
        assert screen.values["trainer"]["schedule"] == "linear"
        await press(pilot, "enter", "down", "enter")
        assert screen.values["trainer"]["schedule"] == "constant"
        await press(pilot, "delete")
        assert "schedule" not in screen.values["trainer"]
        move_to(app, "trainer.gradient_checkpointing")
        await press(pilot, "space")
        assert screen.values["trainer"]["gradient_checkpointing"] is True
        move_to(app, "student.lora")
        await press(pilot, "space")
        assert row(app, "student.lora.r")["value"] == "16"
        move_to(app, "student.lora")
        await press(pilot, "space")
        assert "lora" not in screen.values["student"]
        move_to(app, "data.train")
        await press(pilot, "enter")
        assert row(app, "data.train.1.path")["error"] == "is required"
        await press(pilot, "o", "enter")
        assert screen.values["data"]["train"][1]["path"] == "general:train"
        move_to(app, "data.train.1")
        await press(pilot, "delete")
        assert len(screen.values["data"]["train"]) == 1


async def test_preset_is_written_as_a_valid_train_config(
    filled: Paths, app_on: AppOn, press: Press, tmp_path: Path
) -> None:
    app = app_on(filled)
    target = tmp_path / "mine.yaml"
    async with app.run_test(size=(80, 24)) as pilot:
        await press(pilot, "n", "p", "home", "enter")
        screen = app.screen
        assert isinstance(screen, NewRunScreen) and screen.values["method"] == "dae"
        await press(pilot, "w")
        app.screen.query_one("#line", Input).value = str(target)
        await press(pilot, "enter")
        values = screen.values
    assert load_config(target) == parse_config(values)


async def test_run_is_copied_edited_and_started(
    filled: Paths, app_on: AppOn, shown: Shown, notified: Shown, press: Press, started: list[Any]
) -> None:
    app = app_on(filled)
    async with app.run_test(size=LARGE) as pilot:
        await press(pilot, "n", "c", "slash", "s", "f", "t", "down", "enter")
        screen = app.screen
        assert isinstance(screen, NewRunScreen)
        assert screen.values["method"] == "sft" and "run sft" in shown(app)
        await press(pilot, "s")
        assert "Start this sft run?" in shown(app)
        await press(pilot, "n")
        await press(pilot, "m", "down", "enter")
        assert screen.values["method"] == "kd"
        await press(pilot, "s")
        assert "fix the marked fields" in notified(app)
        move_to(app, "teacher.model")
        await type_value(pilot, press, "big-model")
        move_to(app, "name")
        await type_value(pilot, press, "my-run")
        await press(pilot, "s")
        text = shown(app)
        assert "Start this kd run?" in text and "big-model/12 ← big-model" in text
        assert "60 steps, 30,876 tokens" in text and "memory about 1.04 GiB" in text
        assert "! end of answers of teacher: it stops elsewhere" in text and "62 %" not in text
        await press(pilot, "y")
        assert [c.name for c in started] == ["my-run"]
        assert isinstance(app.screen, RunScreen)


async def test_failed_plan_is_explained_and_starts_nothing(
    filled: Paths,
    app_on: AppOn,
    shown: Shown,
    press: Press,
    started: list[Any],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def fail(command: list[str], text: str = "") -> Any:
        raise RunError("smollm2 has not been pulled")

    monkeypatch.setattr("kdharness.tui.viewmodels.estimates.run_json", fail)
    app = app_on(filled)
    async with app.run_test(size=LARGE) as pilot:
        await press(pilot, "n", "s")
        text = shown(app)
        assert "✗ smollm2 has not been pulled" in text and "fix what is marked ✗ first" in text
        await press(pilot, "y")
        assert "smollm2 has not been pulled" in shown(app) and not started
        await press(pilot, "escape")
        assert isinstance(app.screen, NewRunScreen)


async def test_start_failure_is_notified(
    filled: Paths, app_on: AppOn, notified: Shown, press: Press, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("kdharness.tui.viewmodels.estimates.run_json", canned_plan)
    app = app_on(filled)
    async with app.run_test(size=LARGE) as pilot:
        await press(pilot, "n")
        move_to(app, "name")
        await type_value(pilot, press, "kd")
        await press(pilot, "s", "y")
        assert "a run named 'kd' already exists" in notified(app)


async def test_form_opens_from_a_run_and_shows_yaml_at_80_columns(
    filled: Paths, app_on: AppOn, shown: Shown, press: Press
) -> None:
    app = app_on(filled)
    async with app.run_test(size=(80, 24)) as pilot:
        app.open_run("dae")
        await press(pilot, "n")
        assert "run dae" in shown(app)
        await press(pilot, "y")
        assert "method: dae" in shown(app)
        await press(pilot, "escape", "n", "right_square_bracket")
        assert isinstance(app.screen, NewRunScreen)


async def test_merge_form_is_completed_and_started(
    filled: Paths, app_on: AppOn, shown: Shown, press: Press, started: list[Any]
) -> None:
    app = app_on(filled)
    async with app.run_test(size=LARGE) as pilot:
        await press(pilot, "n", "m", "end", "enter")
        assert "wise-ft needs a reference and an expert" in shown(app)
        for name, row_name in (("reference", "kd"), ("expert", "expert")):
            move_to(app, name)
            await press(pilot, "o", "slash", *row_name, "enter")
        move_to(app, "alphas")
        await type_value(pilot, press, "0.3")
        assert app.screen.values["alphas"] == [0.3]
        await press(pilot, "s")
        text = shown(app)
        assert "kd + expert" in text and "without training" in text
        await press(pilot, "y")
    assert started[0].method == "merge" and started[0].sources == {
        "reference": "kd",
        "expert": "expert",
    }


async def test_evaluate_opened_from_a_run_is_started(
    filled: Paths, app_on: AppOn, shown: Shown, press: Press, started: list[Any]
) -> None:
    app = app_on(filled)
    async with app.run_test(size=LARGE) as pilot:
        await press(pilot, "slash", *"id", "colon", *"kd", "enter", "v")
        screen = app.screen
        assert isinstance(screen, EvaluateScreen) and screen.values["checkpoints"] == ["kd"]
        move_to(app, "benches")
        await press(pilot, "o", "home", "space", "enter")
        assert set(screen.values["benches"]) == {"shop", "heldout", "mt-bench"}
        await press(pilot, "s")
        assert "no judge: mt-bench will be answered but not judged" in shown(app)
        await press(pilot, "n")
        move_to(app, "judge")
        await press(pilot, "o", "home", "space", "enter")
        assert screen.values["judge"] == ["openai:judge-x"]
        await press(pilot, "s")
        text = shown(app)
        assert "near-chance" in text and "stored judgments are reused" in text
        assert "160 calls, about 9,000 tokens, about $0.12" in text
        assert "! baseline has no effect" in text
        await press(pilot, "y")
    assert started[0].checkpoints == ["kd"] and started[0].judge == ["openai:judge-x"]


async def test_evaluate_form_keeps_its_values_and_requires_checkpoints(
    filled: Paths, app_on: AppOn, shown: Shown, press: Press
) -> None:
    app = app_on(filled)
    async with app.run_test(size=(80, 24)) as pilot:
        await press(pilot, "6")
        assert "required: press o" in shown(app)
        move_to(app, "limit")
        await type_value(pilot, press, "5")
        await press(pilot, "f2", "f7")
        assert row(app, "limit")["value"] == "5"
        await press(pilot, "r")
        assert isinstance(app.screen, RunScreen) and app.screen.run_id == "scores"


async def test_broken_settings_file_is_notified(
    filled: Paths, app_on: AppOn, notified: Shown, press: Press
) -> None:
    filled.settings.write_text("judge: [a\n", "utf-8")
    app = app_on(filled)
    async with app.run_test(size=(80, 24)) as pilot:
        await press(pilot, "6")
        assert "settings.yaml" in notified(app)
