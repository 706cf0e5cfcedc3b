"""Panes beside lists: they follow the cursor, and narrow terminals open the same details."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
from textual.pilot import Pilot

from kdharness.harness.paths import Paths
from kdharness.harness.store import Store
from kdharness.tui.app import HarnessApp
from kdharness.tui.screens import panes
from kdharness.tui.screens.panes import DetailsScreen
from kdharness.tui.screens.run import RunScreen
from kdharness.tui.widgets.pane import Pane
from kdharness.tui.widgets.table import Listing
from support.app import LARGE, SMALL, AppOn, Press, Shown

pytestmark = pytest.mark.slow


@pytest.fixture(autouse=True)
def restless(monkeypatch: pytest.MonkeyPatch) -> None:
    """Read the same row again without the rest that saves work on live runs."""
    monkeypatch.setattr(panes, "REST", 0.05)


async def follow(pilot: Pilot[None], ready: Callable[[], bool]) -> None:
    """Wait until the pane shows something, which it does a moment after the last key."""
    for _ in range(800):
        if ready() and not pilot.app.busy:  # type: ignore[attr-defined]
            return
        await pilot.pause(0.01)
    raise AssertionError(f"the pane did not follow: {pane_text(pilot.app)}")


def pane_text(app: Any) -> str:
    """Return all lines of the pane, also those that are scrolled out."""
    pane = app.screen.query_one("#pane", Pane)
    return "\n".join("".join(text for text, _ in line) for line in pane.source)


def on_row(app: HarnessApp, name: str) -> None:
    """Move the cursor to a row."""
    listing = app.screen.query_one("#list", Listing)
    listing.move_to([row["id"] for row in listing.rows].index(name))


async def test_runs_pane_shows_curves_scores_settings_and_log(
    filled: Paths, app_on: AppOn, press: Press
) -> None:
    with Store(filled.store) as store:
        store.add_event("expert", "note", "the last line of the log")
    app = app_on(filled)
    async with app.run_test(size=LARGE) as pilot:
        await press(pilot)
        on_row(app, "expert")
        await follow(pilot, lambda: pane_text(app).startswith("expert"))
        text = pane_text(app)
        assert "sft · kd · steps 80 of 80" in text
        assert " loss 1.609" in text and "◆" in text and "◇" in text and "grad norm" in text
        assert "Settings that differ from  kd" in text and "method  kd → sft" in text
        assert "shop score" in text and "±" in text
        assert "the last line of the log" in text
        on_row(app, "kd")
        await follow(pilot, lambda: pane_text(app).startswith("kd"))
        assert "no parent among the runs here" in pane_text(app)
        assert "trainer.learning_rate  2e-05" in pane_text(app)


async def test_a_pane_needs_room_and_a_held_key_reads_once(
    filled: Paths, app_on: AppOn, press: Press, monkeypatch: pytest.MonkeyPatch
) -> None:
    app = app_on(filled)
    async with app.run_test(size=(109, 30)) as pilot:
        await press(pilot, "down")
        assert not app.screen.query_one("#pane").display
        read: list[str] = []
        details = app.screen.details  # type: ignore[attr-defined]
        monkeypatch.setattr(
            app.screen, "details", lambda row: (read.append(row["id"]), details(row))[1]
        )
        await pilot.resize_terminal(110, 30)
        await follow(pilot, lambda: bool(pane_text(app)))
        assert app.screen.query_one("#pane").display
        read.clear()
        for by in (1, 1, 1, -1):
            app.screen.query_one("#list", Listing).action_move(by)
        last = app.screen.query_one("#list", Listing).row
        assert last is not None
        await follow(pilot, lambda: pane_text(app).startswith(str(last["id"])))
        assert read == [last["id"]]


async def test_the_pane_of_a_live_run_follows_its_writes(
    filled: Paths, app_on: AppOn, press: Press
) -> None:
    app = app_on(filled)
    async with app.run_test(size=LARGE) as pilot:
        await press(pilot)
        on_row(app, "dae")
        await follow(pilot, lambda: pane_text(app).startswith("dae"))
        with Store(filled.store) as other:
            other.add_progress("dae", points=[("loss", 91, 0.125, 0.0)], step=91)
        app.follow()
        await follow(pilot, lambda: "loss 0.125" in pane_text(app))
        assert "steps 91 of 240" in pane_text(app)


async def test_a_pane_that_is_read_keeps_its_place_when_the_run_writes(
    filled: Paths, app_on: AppOn, press: Press
) -> None:
    """A public report of a view that jumps back to its start on every refresh."""
    app = app_on(filled)
    async with app.run_test(size=(112, 16)) as pilot:
        await press(pilot)
        on_row(app, "dae")
        await follow(pilot, lambda: pane_text(app).startswith("dae"))
        pane = app.screen.query_one("#pane", Pane)
        await press(pilot, "tab", "pagedown")
        assert pane.scroll_offset.y > 0
        before = pane.scroll_offset.y
        with Store(filled.store) as other:
            other.add_progress("dae", points=[("loss", 92, 0.25, 0.0)], step=92)
        app.follow()
        await follow(pilot, lambda: "loss 0.25" in pane_text(app))
        assert pane.scroll_offset.y == before
        await press(pilot, "escape", "down")
        await follow(pilot, lambda: not pane_text(app).startswith("dae"))
        assert pane.scroll_offset.y == 0


async def test_hostile_text_in_a_pane_is_shown_as_text(
    filled: Paths, app_on: AppOn, press: Press, shown: Shown
) -> None:
    app = app_on(filled)
    async with app.run_test(size=LARGE) as pilot:
        await press(pilot)
        await follow(pilot, lambda: pane_text(app).startswith("broken"))
        assert "\\x1b" in pane_text(app) and "\x1b" not in shown(app)
        on_row(app, "dae")
        await follow(pilot, lambda: "── Log" in pane_text(app))
        assert "\x1b" not in pane_text(app) and "\u202e" not in pane_text(app)


async def test_leaderboard_pane_has_the_interval_of_every_metric(
    filled: Paths, app_on: AppOn, press: Press
) -> None:
    app = app_on(filled)
    async with app.run_test(size=LARGE) as pilot:
        await press(pilot, "2")
        board = app.screen.board  # type: ignore[attr-defined]
        on_row(app, "expert")
        await follow(pilot, lambda: pane_text(app).startswith("expert"))
        lines = pane_text(app).splitlines()
        assert len(lines) > 1 + len(board.figures) and any("· coding" in line for line in lines)
        drawn = [line for line in lines if "├" in line and "●" in line]
        assert len(drawn) >= 8
        assert any("mt-bench score" in line and "openai:judge-x" in line for line in lines)


@pytest.mark.parametrize("place", ["leaderboard", "experiments"])
async def test_enter_opens_the_same_details_at_80_columns(
    experiment_home: Paths, app_on: AppOn, press: Press, shown: Shown, place: str
) -> None:
    keys = ("2",) if place == "leaderboard" else ("w", "enter")
    name, run = ("kd", "kd") if place == "leaderboard" else ("small-kd-s1", "small-kd-s1")
    texts = []
    for size in (LARGE, SMALL):
        app = app_on(experiment_home)
        async with app.run_test(size=size) as pilot:
            await press(pilot, *keys)
            on_row(app, name)
            if size == SMALL:
                await press(pilot, "enter")
                assert isinstance(app.screen, DetailsScreen)
            await follow(pilot, lambda app=app: pane_text(app).startswith(name))
            texts.append(pane_text(app).split())
            if size == SMALL:
                await press(pilot, "enter")
                assert isinstance(app.screen, RunScreen) and app.screen.run_id == run
                await press(pilot, "escape")
                assert app.screen.place == place  # type: ignore[attr-defined]
    words = [{word for word in text if word.isalpha()} for text in texts]
    assert len(words[0]) > 8 and len(words[0] & words[1]) > 0.8 * len(words[0])


async def test_a_step_that_was_not_started_tells_what_it_waits_for(
    experiment_home: Paths, app_on: AppOn, press: Press
) -> None:
    app = app_on(experiment_home)
    async with app.run_test(size=LARGE) as pilot:
        await press(pilot, "w", "enter")
        on_row(app, "small-scores-s1")
        await follow(pilot, lambda: pane_text(app).startswith("small-scores-s1"))
        text = pane_text(app)
        assert "· to do" in text and "step scores with seed 1" in text
        assert "✓ small-kd-s1" in text and "✗ small-expert-s1" in text
        assert "it waits for small-expert-s1" in text


@pytest.mark.parametrize("keys", [("down", "down", "down"), ("2",), ("3",), ("w",)])
async def test_no_screen_leaves_half_of_120x40_empty(
    experiment_home: Paths, app_on: AppOn, press: Press, shown: Shown, keys: tuple[str, ...]
) -> None:
    app = app_on(experiment_home)
    async with app.run_test(size=LARGE) as pilot:
        await press(pilot, *keys)
        await pilot.pause(0.2)
        await press(pilot)
        lines = shown(app).splitlines()
        assert sum(not line.strip(" │▍") for line in lines) < 20


async def test_tab_reaches_the_pane_and_escape_returns(
    filled: Paths, app_on: AppOn, press: Press
) -> None:
    app = app_on(filled)
    async with app.run_test(size=LARGE) as pilot:
        await press(pilot)
        await pilot.press("tab")
        assert app.screen.query_one("#pane").has_focus
        await press(pilot, "down", "escape")
        assert app.screen.query_one("#list").has_focus
        assert app.screen.place == "runs"  # type: ignore[attr-defined]


async def test_a_pane_is_filled_however_early_its_screen_is_opened(
    filled: Paths, app_on: AppOn, press: Press
) -> None:
    app = app_on(filled)
    async with app.run_test(size=LARGE) as pilot:
        app.version = 0  # the store has not been opened yet
        await app.action_go("leaderboard")
        await follow(pilot, lambda: pane_text(app).startswith("big-model"))
