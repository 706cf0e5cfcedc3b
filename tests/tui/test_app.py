"""The whole app: actions, mouse, tiny terminals, and libraries it must not import."""

from __future__ import annotations

import subprocess
import sys
from typing import Any

import pytest
from textual.command import CommandPalette

from kdharness.harness.paths import Paths
from kdharness.tui.screens.care import Remove
from kdharness.tui.screens.dialogs import Choose, Confirm
from kdharness.tui.screens.help import TextDialog
from kdharness.tui.screens.run import RunScreen
from kdharness.tui.widgets.table import Listing
from support.app import LARGE, AppOn, Press, Shown, answered, help_page, painted


async def test_key_starts_the_demo(
    home: Paths, app_on: AppOn, shown: Shown, press: Press, monkeypatch: pytest.MonkeyPatch
) -> None:
    commands: list[list[str]] = []

    class Process:
        def __init__(self, command: list[str], **options: Any) -> None:
            commands.append(command)
            assert options["start_new_session"]
            options["stdout"].write(b"asset smollm2 \x1b]0;title\x07\n")
            options["stdout"].flush()

        def poll(self) -> None:
            return None

    monkeypatch.setattr("kdharness.harness.util.detached.subprocess.Popen", Process)
    app = app_on(home)
    async with app.run_test(size=(80, 24)) as pilot:
        await press(pilot, "D")
        assert "Run the demo?" in shown(app) and "11 runs" in shown(app) and not commands
        await press(pilot, "n", "D", "y")
        assert commands == [
            [sys.executable, "-m", "kdharness.harness.cli", "--home", str(home.home), "demo"]
        ]
        text = shown(app)
        assert "asset smollm2 \\x1b]0;title\\x07" in text
        await press(pilot, "D", "y")
        assert len(commands) == 1


@pytest.mark.slow
async def test_palette_lists_every_action(filled: Paths, app_on: AppOn, press: Press) -> None:
    app = app_on(filled)
    async with app.run_test(size=LARGE) as pilot:
        await press(pilot, "2")
        names = {command.title for command in app.get_system_commands(app.screen)}
        bindings = {
            b.binding.description
            for b in app.screen.active_bindings.values()
            if b.enabled and b.binding.description and b.binding.id
        }
        assert bindings <= names and "Theme: light" in names
        await press(pilot, "ctrl+p")
        assert isinstance(app.screen, CommandPalette)
        await press(pilot, *"theme", "space", *"light", "enter")
        await pilot.pause()
        assert app.theme == "light"


@pytest.mark.slow
async def test_mouse_clicks_select_sort_and_navigate(
    filled: Paths, app_on: AppOn, shown: Shown, press: Press
) -> None:
    app = app_on(filled)
    async with app.run_test(size=LARGE) as pilot:
        listing = app.screen.query_one("#list", Listing)
        await pilot.click("#list", offset=(10, 3))
        assert listing.cursor == 2
        await pilot.click("#list", offset=(4, 0))
        assert listing.sort_key == "id"
        await pilot.click("KeyBar", offset=(3, 0))
        await pilot.pause()
        assert "All training runs and evaluations" in shown(app)
        await press(pilot, "escape")
        await pilot.click("NavBar", offset=(26, 0))
        await pilot.pause()
        assert app.screen.place == "leaderboard"  # type: ignore[attr-defined]


def cell(app: Any, *words: str) -> tuple[int, int]:
    """Return the column and row of the last of some words that follow each other on the screen."""
    lines = [strip.text for strip in painted(app)]
    row = next(n for n, line in enumerate(lines) if all(word in line for word in words))
    return lines[row].index(words[-1]), row


@pytest.mark.slow
async def test_mouse_presses_keys_of_the_footer_that_have_a_choice(
    filled: Paths, app_on: AppOn, press: Press
) -> None:
    """`d` and `g` of Trade-off are one action for two axes."""
    app = app_on(filled)
    async with app.run_test(size=LARGE) as pilot:
        await press(pilot, "3")
        for word in ("General", "Domain"):
            await pilot.click(offset=cell(app, "? Help", word))
            await press(pilot)
            assert isinstance(app.screen, Choose), word
            # A click beside the dialog leaves it; one on it does not.
            await pilot.click("#choices", offset=(3, 0))
            await press(pilot)
            assert isinstance(app.screen, Choose)
            await pilot.click(offset=(0, 20))
            await press(pilot)
            assert not isinstance(app.screen, Choose)


@pytest.mark.slow
async def test_mouse_answers_a_question_and_closes_help(
    filled: Paths, app_on: AppOn, press: Press, shown: Shown
) -> None:
    app = app_on(filled)
    async with app.run_test(size=LARGE) as pilot:
        await press(pilot, "D")
        assert isinstance(app.screen, Confirm)
        await pilot.click(offset=cell(app, " y ", " n ", "no"))
        await press(pilot)
        assert not isinstance(app.screen, Confirm)
        await press(pilot, "end", "d")
        assert isinstance(app.screen, Remove)
        await pilot.click(offset=cell(app, "keep the files"))
        await press(pilot)
        assert app.screen.options["keep"] and "[x] keep the files" in shown(app)
        await pilot.click(offset=cell(app, " n ", " no"))
        await press(pilot)
        assert not isinstance(app.screen, Remove)
        await press(pilot, "question_mark")
        assert isinstance(app.screen, TextDialog)
        await pilot.click(offset=(0, 20))
        await press(pilot)
        assert not isinstance(app.screen, TextDialog)


WALK = """
import asyncio, sys
from pathlib import Path
from kdharness.harness.paths import Paths
from kdharness.tui.app import HarnessApp

async def walk():
    app = HarnessApp(Paths(Path(sys.argv[1])))
    async with app.run_test(size=(120, 40)) as pilot:
        for key in ["2", "3", "4", "5", "6", "7", "8", "1", "n", "escape", "enter"]:
            await pilot.press(key)
            while app.busy:
                await pilot.pause(0.01)
            await pilot.pause()

asyncio.run(walk())
print(sorted({"torch", "openai", "transformers", "matplotlib", "peft"} & set(sys.modules)))
"""


@pytest.mark.slow
def test_screens_do_not_import_heavy_libraries(filled: Paths) -> None:
    done = subprocess.run(
        [sys.executable, "-c", WALK, str(filled.home)], capture_output=True, text=True, check=True
    )
    assert done.stdout.strip() == "[]"


@pytest.mark.slow
async def test_every_screen_opens_on_an_empty_store(
    home: Paths, app_on: AppOn, press: Press, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("kdharness.tui.commands.run_command", answered(0, "[]"))
    app = app_on(home)
    async with app.run_test(size=(80, 24)) as pilot:
        for key in "234567891":
            await press(pilot, key, "down", "enter", "escape")
            while len(app.screen_stack) > 2:
                await press(pilot, "escape")
    assert app.return_code in (None, 0)


@pytest.mark.slow
async def test_tiny_terminal_does_not_crash(
    filled: Paths, app_on: AppOn, shown: Shown, press: Press
) -> None:
    app = app_on(filled)
    async with app.run_test(size=(20, 6)) as pilot:
        for key in ("2", "3", "4", "5", "1", "enter"):
            await press(pilot, key)
        await pilot.resize_terminal(100, 30)
        await pilot.pause()
        text = shown(app)
        assert isinstance(app.screen, RunScreen)
        assert "data.jsonl, line 3" in text and "no curves yet" in text and "q Quit" in text
        assert [strip.cell_length for strip in painted(app)] == [100] * 30


@pytest.mark.slow
async def test_help_lists_keys_and_q_quits(filled: Paths, app_on: AppOn, shown: Shown) -> None:
    app = app_on(filled)
    async with app.run_test(size=(120, 40)) as pilot:
        await pilot.press("f1")
        await pilot.pause()
        assert "All training runs and evaluations" in shown(app)
        text = help_page(app)
        assert "New run" in text and "runs.new: n" in text
        await pilot.press("escape", "q")
    assert app.return_code == 0


@pytest.mark.slow
async def test_keys_and_theme_are_read_from_the_settings(filled: Paths, app_on: AppOn) -> None:
    filled.settings.write_text("judge: x\ntheme: light\nkeys:\n  app.quit: z\n", "utf-8")
    app = app_on(filled)
    async with app.run_test(size=(80, 24)) as pilot:
        assert app.theme == "light"
        await pilot.press("t")
        assert app.theme != "light"
        assert "judge: x" in filled.settings.read_text("utf-8")
        await pilot.press("q")
        assert app.is_running
        await pilot.press("z")
    assert app.return_code == 0


@pytest.mark.slow
def test_app_does_not_import_heavy_libraries() -> None:
    code = (
        # The list of runs, which is painted first, needs the summary.
        "import sys, kdharness.tui.app, kdharness.harness.runs.summary;"
        "late = {'sqlite_utils', 'kdharness.tui.screens.run', 'kdharness.tui.screens.experiments'};"
        "early = late & set(sys.modules);"
        "import kdharness.tui.screens.leaderboard;"
        "bad = {'torch', 'openai', 'transformers', 'pydantic', 'textual_plot', 'matplotlib'};"
        "print(sorted(early | bad & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


async def test_poll_after_quit_does_nothing(home: Paths, app_on: AppOn) -> None:
    """The poll timer can fire after a quitting app has removed its screens."""
    app = app_on(home)
    async with app.run_test(size=(80, 24)):
        pass
    assert not app.screen_stack
    app.follow()
    app.follow_store()
