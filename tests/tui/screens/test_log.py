"""The log of a run by keyboard: levels, and a search."""

from __future__ import annotations

from kdharness.harness.paths import Paths
from kdharness.harness.runs.log_output import log_path
from kdharness.tui.app import HarnessApp
from kdharness.tui.screens.new_run import NewRunScreen
from kdharness.tui.widgets.log_view import LogPane
from support.app import SMALL, AppOn, Press, Shown


def write_log(paths: Paths, run: str, text: str) -> None:
    """Write a worker's log."""
    path = log_path(paths, run)
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)


def state_of(app: HarnessApp) -> str:
    """Return the line above the log."""
    return str(app.screen.query_one("#log-state").render())


async def test_levels_hide_metrics_and_output_and_tell_how_many(
    filled: Paths, app_on: AppOn, press: Press, shown: Shown
) -> None:
    text = "loading\nUserWarning: old\n{'loss': '2.8'}\n{'loss': '2.7'}\nValueError: bad\n"
    write_log(filled, "dae", text)
    app = app_on(filled)
    async with app.run_test(size=SMALL) as pilot:
        await press(pilot)
        app.open_run("dae")
        await press(pilot, "g")
        assert "2 hidden (l)" in state_of(app) and "loading" in shown(app)
        assert "'loss'" not in shown(app) and "240 rows" in shown(app)
        await press(pilot, "l")
        assert "'loss': '2.7'" in shown(app) and "hidden" not in state_of(app)
        await press(pilot, "l", "l")
        text = shown(app)
        assert "UserWarning: old" in text and "ValueError: bad" in text and "240 rows" not in text
        assert "warnings and errors: 2 lines" in state_of(app)


async def test_a_search_goes_through_its_matches_and_keeps_the_other_lines(
    filled: Paths, app_on: AppOn, press: Press, shown: Shown
) -> None:
    """As asked for in public reports of log views that hide what does not match."""
    lines = [f"line {n}{' needle' if n in (10, 90) else ''}" for n in range(100)]
    write_log(filled, "dae", "\n".join(lines) + "\n")
    app = app_on(filled)
    async with app.run_test(size=SMALL) as pilot:
        await press(pilot)
        app.open_run("dae")
        await press(pilot, "g", "home", "slash", *"NEEDLE", "enter")
        assert "/NEEDLE: no match" in state_of(app)
        await press(pilot, "slash", "ctrl+u", *"needle", "enter")
        text = shown(app)
        assert "1 of 2" in state_of(app) and "line 10 needle" in text and "line 11" in text
        await press(pilot, "n")
        assert "2 of 2" in state_of(app) and "line 90 needle" in shown(app)
        await press(pilot, "n")
        assert "1 of 2" in state_of(app)
        await press(pilot, "N", "N", "N")
        assert "2 of 2" in state_of(app)
        # A line that arrives keeps the match that is gone to.
        write_log(filled, "dae", "\n".join([*lines, "needle at the end"]) + "\n")
        app.screen.reread()  # type: ignore[attr-defined]
        await press(pilot)
        assert "2 of 3" in state_of(app) and "line 90 needle" in shown(app)
        await press(pilot, "escape")
        assert "needle" not in state_of(app) and app.screen.query_one(LogPane).words == ""
        # Without a search, n is the screen's own key again.
        await press(pilot, "slash", "escape", "n")
        assert isinstance(app.screen, NewRunScreen)


async def test_a_log_that_is_read_further_up_stays_there(
    filled: Paths, app_on: AppOn, press: Press, shown: Shown
) -> None:
    """As in public reports of logs that jump to their end while they are read."""
    lines = [f"line {n}" for n in range(100)]
    write_log(filled, "dae", "\n".join(lines) + "\n")
    app = app_on(filled)
    async with app.run_test(size=SMALL) as pilot:
        await press(pilot)
        app.open_run("dae")
        await press(pilot, "g", "home", "pagedown")
        before = shown(app)
        write_log(filled, "dae", "\n".join([*lines, "more", "and more"]) + "\n")
        app.screen.reread()  # type: ignore[attr-defined]
        await press(pilot)
        top = [line[:40] for line in before.splitlines()[6:20]]
        assert [line[:40] for line in shown(app).splitlines()[6:20]] == top
        await press(pilot, "end")
        write_log(filled, "dae", "\n".join([*lines, "the newest"]) + "\n")
        app.screen.reread()  # type: ignore[attr-defined]
        await press(pilot)
        await pilot.pause(0.05)
        assert "the newest" in shown(app)
