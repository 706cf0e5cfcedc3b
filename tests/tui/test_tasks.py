"""What people come to do, by keyboard at both sizes and with the mouse: no step goes wrong."""

from __future__ import annotations

import csv
from pathlib import Path
from typing import Any

import pytest
from textual.widgets import Input, Static

from kdharness.harness.paths import Paths
from kdharness.harness.store import Store
from kdharness.harness.types import Request
from kdharness.tui.screens.new_run import NewRunScreen
from kdharness.tui.screens.run import RunScreen
from kdharness.tui.widgets.table import Listing
from support.app import LARGE, SMALL, AppOn, Press, Shown
from support.forms import move_to
from support.tui_home import add_judgments, add_past_checkpoint

pytestmark = pytest.mark.slow
SIZES = pytest.mark.parametrize("size", [SMALL, LARGE], ids=["80x24", "120x40"])


@SIZES
async def test_a_first_look_follow_a_run_pause_stop_and_leave(
    filled: Paths, app_on: AppOn, press: Press, shown: Shown, size: tuple[int, int]
) -> None:
    app = app_on(filled)
    async with app.run_test(size=size) as pilot:
        await press(pilot, "slash", *"running", "enter", "enter")
        assert isinstance(app.screen, RunScreen) and app.screen.run_id == "dae"
        assert " loss  1.6" in shown(app) and "◆" in shown(app)
        assert "ETA 25:00" in shown(app) and "training 90/240" in shown(app)
        await press(pilot, "s")
        assert "Settings that differ from" in shown(app)
        await press(pilot, "g", "c", "enter", "escape", "p", "X", "y")
        with Store(filled.store) as store:
            assert store.take_requests("dae") == [Request.PAUSE, Request.STOP]
        await press(pilot, "escape")
        assert app.screen.place == "runs"  # type: ignore[attr-defined]


@SIZES
async def test_b_which_checkpoint_is_best_and_is_that_real(
    filled: Paths, app_on: AppOn, press: Press, shown: Shown, size: tuple[int, int]
) -> None:
    with Store(filled.store) as store:
        add_past_checkpoint(store, "dae", "dae", {"reference": "kd", "expert": "expert"})
        add_judgments(store, "dae", 0.85)
    filled.settings.write_text('primary: {domain: "heldout:domain_loss"}\nkeep: 0.9\n', "utf-8")
    app = app_on(filled)
    async with app.run_test(size=size) as pilot:
        await press(pilot, "3")
        await press(pilot)
        answer = " ".join(str(app.screen.query_one("#answer", Static).render()).split())
        assert "significant domain gain that retains at least 0.9 of the general score: " in answer
        assert "8 items of heldout:domain_loss (no judge; flagged subset)" in answer
        await press(pilot, "2")
        listing = app.screen.query_one("#list", Listing)
        for name in ("kd", "dae"):
            listing.move_to([row["id"] for row in listing.rows].index(name))
            await press(pilot, "space")
        assert "kd vs dae" in shown(app)
        await press(pilot, "4")
        assert ("▲" in shown(app) or "△" in shown(app)) and "kd vs dae" in shown(app)
        await press(pilot, "5")
        assert "kd" in shown(app) and "dae" in shown(app)


@SIZES
async def test_c_a_run_of_ones_own(
    filled: Paths,
    app_on: AppOn,
    press: Press,
    shown: Shown,
    started: list[Any],
    size: tuple[int, int],
) -> None:
    app = app_on(filled)
    async with app.run_test(size=size) as pilot:
        await press(pilot, "slash", "k", "d", "enter", "end", "enter", "n")
        assert isinstance(app.screen, NewRunScreen)
        move_to(app, "name")
        await press(pilot, "enter", *"mine", "enter", "s")
        assert "Start this kd run?" in shown(app)
        await press(pilot, "y")
        assert [config.name for config in started] == ["mine"]
        assert isinstance(app.screen, RunScreen)


@SIZES
async def test_d_filter_overlay_and_take_the_results_along(
    filled: Paths,
    app_on: AppOn,
    press: Press,
    shown: Shown,
    size: tuple[int, int],
    tmp_path: Path,
) -> None:
    app = app_on(filled)
    async with app.run_test(size=size) as pilot:
        await press(pilot, "slash", *"status", "colon", *"failed", "enter")
        listing = app.screen.query_one("#list", Listing)
        assert [row["id"] for row in listing.rows] == ["broken"]
        await press(pilot, "escape")
        for name in ("kd", "sft"):
            listing.move_to([row["id"] for row in listing.rows].index(name))
            await press(pilot, "space")
        await press(pilot, "enter")
        assert "A sft  B kd" in shown(app)
        await press(pilot, "e")
        app.screen.query_one("#line", Input).value = str(tmp_path / "loss.svg")
        await press(pilot, "enter", "escape", "2", "e")
        app.screen.query_one("#line", Input).value = str(tmp_path / "board.csv")
        await press(pilot, "enter")
    assert "<svg" in (tmp_path / "loss.svg").read_text("utf-8")
    with (tmp_path / "board.csv").open() as stream:
        assert {row["checkpoint"] for row in csv.DictReader(stream)} >= {"kd", "sft", "expert"}


async def test_a_mouse_sorts_chooses_rows_switches_screens_and_opens_charts(
    filled: Paths, app_on: AppOn, press: Press, shown: Shown
) -> None:
    app = app_on(filled)
    async with app.run_test(size=LARGE) as pilot:
        await press(pilot)
        listing = app.screen.query_one("#list", Listing)
        title = next(line for line in shown(app).splitlines() if "run 6" in line)
        await pilot.click("#list", offset=(title.index("loss"), 0))
        values = [row["loss"] for row in listing.rows if row["loss"] is not None]
        assert listing.sort_key == "loss" and values == sorted(values)
        await pilot.click("#list", offset=(5, 3))
        name = listing.row["id"] if listing.row else ""
        await pilot.click("#list", offset=(5, 3))
        await press(pilot)
        assert isinstance(app.screen, RunScreen) and app.screen.run_id == name
        await pilot.click("#chart", offset=(60, 2))
        assert app.screen.grid.zoomed
        bar = shown(app).splitlines()[0]
        await pilot.click("NavBar", offset=(bar.index("Leaderboard"), 0))
        await press(pilot)
        assert app.screen.place == "leaderboard"  # type: ignore[attr-defined]
        board = app.screen.query_one("#list", Listing)
        head = next(line for line in shown(app).splitlines() if "checkpoint 4" in line)
        await pilot.click("#list", offset=(head.index("domain loss") + 2, 1))
        assert board.sort_key == "heldout:domain_loss"
        assert "heldout domain loss" in shown(app).splitlines()[3]
        bar = shown(app).splitlines()[0]
        await pilot.click("NavBar", offset=(bar.index("Trade-off"), 0))
        await press(pilot)
        assert app.screen.place == "tradeoff"  # type: ignore[attr-defined]
