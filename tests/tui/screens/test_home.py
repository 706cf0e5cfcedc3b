"""Home and leaderboard by keyboard: what is shown, and that it follows the store."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable

from kdharness.harness.paths import Paths
from kdharness.harness.store import Store
from kdharness.tui.app import HarnessApp
from kdharness.tui.widgets.table import Listing

AppOn = Callable[[Paths], HarnessApp]
Shown = Callable[[HarnessApp], str]


async def test_runs_show_status_models_and_time_left(
    filled: Paths, app_on: AppOn, shown: Shown
) -> None:
    app = app_on(filled)
    async with app.run_test(size=(80, 24)) as pilot:
        await pilot.pause()
        text = shown(app)
        assert "▶ running" in text and "✓ finished" in text and "✗ failed" in text
        assert "kd ← expert" in text
        assert "25:00" in text  # 90 steps took 900 s, 150 are left
        assert "0.987" in text


async def test_hostile_text_is_only_text(filled: Paths, app_on: AppOn, shown: Shown) -> None:
    app = app_on(filled)
    async with app.run_test(size=(120, 40)) as pilot:
        await pilot.pause()
        text = shown(app)
        assert "\x1b" not in text and "\u202e" not in text and "\x00" not in text
        assert "red]x[/] \\x1b[31m\\x1b]52;c;aGk=\\x07" in text


async def test_filter_sort_and_mark(filled: Paths, app_on: AppOn) -> None:
    app = app_on(filled)
    async with app.run_test(size=(120, 40)) as pilot:
        listing = app.screen.query_one("#list", Listing)
        await pilot.press("slash", *"status", "colon", *"finished", "enter")
        assert {row["status"] for row in listing.rows} == {"finished"}
        await pilot.press("escape")
        assert len(listing.rows) == 6
        await pilot.press("s")
        assert [row["id"] for row in listing.rows] == sorted(row["id"] for row in listing.rows)
        await pilot.press("s", "home", "space")
        assert listing.rows[0]["id"] == "sft" and listing.marked == ["sft"]


async def test_a_run_written_elsewhere_appears(filled: Paths, app_on: AppOn, shown: Shown) -> None:
    app = app_on(filled)
    async with app.run_test(size=(120, 40)) as pilot:
        await pilot.pause()
        with Store(filled.store) as other:
            other.update_run("dae", step=120, loss=0.5)
        app.follow()
        await pilot.pause()
        assert "0.5 " in shown(app)
        with Store(filled.store) as other:
            from kdharness.harness.types import Run, RunStatus

            other.add_run(
                Run(
                    id="fresh",
                    method="sft",
                    status=RunStatus.FINISHED,
                    config={},
                    config_hash="",
                    folder="",
                    created=app.now(),
                )
            )
        app.follow()
        await pilot.pause()
        assert "fresh" in shown(app)


async def test_nothing_is_repainted_when_nothing_changed(filled: Paths, app_on: AppOn) -> None:
    app = app_on(filled)
    async with app.run_test(size=(80, 24)) as pilot:
        await pilot.pause()
        listing = app.screen.query_one("#list", Listing)
        painted = []
        listing.refresh = lambda *a, **k: painted.append(a) or listing  # type: ignore[method-assign]
        app.minute_passed()
        app.follow()
        app.follow()
        await pilot.pause()
        assert painted == []


async def test_leaderboard_by_keyboard(filled: Paths, app_on: AppOn, shown: Shown) -> None:
    app = app_on(filled)
    async with app.run_test(size=(120, 40)) as pilot:
        await pilot.press("2")
        while app.busy:
            await pilot.pause(0.01)
        await pilot.pause()
        text = shown(app)
        assert "general loss" in text and "├" in text and "●" in text
        listing = app.screen.query_one("#list", Listing)
        names = [row["id"] for row in listing.rows]
        await pilot.press("s")
        assert [row["id"] for row in listing.rows] == names[::-1]
        await pilot.press("b", "b", "c")
        await pilot.pause()
        assert "coding" in shown(app)
        await pilot.press("question_mark")
        await pilot.pause()
        assert "the judge is a toy" in shown(app)
        await pilot.press("escape", "escape")
        assert app.screen.place == "runs"  # type: ignore[attr-defined]


async def test_help_lists_every_key_and_quit_leaves(
    filled: Paths, app_on: AppOn, shown: Shown
) -> None:
    app = app_on(filled)
    async with app.run_test(size=(120, 40)) as pilot:
        await pilot.press("f1")
        await pilot.pause()
        text = shown(app)
        assert "New run" in text and "runs.new" in text
        await pilot.press("escape", "q")
    assert app.return_code == 0


async def test_empty_store_shows_the_tour(home: Paths, app_on: AppOn, shown: Shown) -> None:
    app = app_on(home)
    async with app.run_test(size=(80, 24)) as pilot:
        await pilot.pause()
        text = shown(app)
        assert "see it happen" in text and "start your own run" in text


async def test_keys_and_theme_come_from_the_settings(filled: Paths, app_on: AppOn) -> None:
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


def test_the_app_loads_nothing_heavy() -> None:
    code = (
        "import sys, kdharness.tui.app, kdharness.tui.screens.leaderboard;"
        "bad = {'torch', 'openai', 'transformers', 'pydantic', 'textual_plot', 'matplotlib'};"
        "print(sorted(bad & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


async def test_a_late_tick_finds_no_screen_and_does_nothing(home: Paths, app_on: AppOn) -> None:
    """The poll timer can fire after a quitting app has taken its screens down."""
    app = app_on(home)
    async with app.run_test(size=(80, 24)):
        pass
    assert not app.screen_stack
    app.follow()
    app._follow_store()
