"""The grid of charts of a run: zoom, held-out points, axes, colours, mouse."""

from __future__ import annotations

from typing import Any

import pytest

from kdharness.harness.paths import Paths
from kdharness.harness.store import Store
from kdharness.tui.screens.run import RunScreen
from kdharness.tui.viewmodels.selection import Selection
from kdharness.tui.widgets.chart_grid import ChartGrid
from support.app import LARGE, SMALL, AppOn, Press, Shown, curves_of
from support.tui_home import NOW

pytestmark = pytest.mark.slow


def run_screen(app: Any) -> RunScreen:
    assert isinstance(app.screen, RunScreen)
    return app.screen


@pytest.mark.parametrize("size", [SMALL, LARGE], ids=["80x24", "120x40"])
async def test_a_run_is_a_grid_with_the_loss_first_and_held_out_points_over_it(
    filled: Paths, app_on: AppOn, press: Press, shown: Shown, size: tuple[int, int]
) -> None:
    app = app_on(filled)
    async with app.run_test(size=size) as pilot:
        app.open_run("kd")
        await press(pilot)
        grid = run_screen(app).grid
        titles = [chart.title for chart in grid.charts]
        assert titles[:2] == ["loss", "kl"] and {"general_loss", "grad_norm"} <= set(titles)
        assert run_screen(app).curve == "loss" and grid.at == 0
        seen = [title for title in titles if title in shown(app)]
        assert len(seen) >= (9 if size == LARGE else 4)
        glyphs = {one.glyph: one for one in grid.charts[0].series if one.glyph}
        assert set(glyphs) == {"◆", "◇"} and len(glyphs["◆"].points) == 11
        assert "◆" in shown(app) and "◇" in shown(app)
        assert shown(app).count("step") >= len(seen) - 1


async def test_enter_shows_a_chart_on_the_whole_screen_and_escape_all_again(
    filled: Paths, app_on: AppOn, press: Press, shown: Shown
) -> None:
    app = app_on(filled)
    async with app.run_test(size=SMALL) as pilot:
        app.open_run("kd")
        await press(pilot, "down", "enter")
        grid = run_screen(app).grid
        assert grid.zoomed and "kl" not in shown(app).splitlines()[4]
        assert grid.charts[grid.at].title in shown(app)
        await press(pilot, "down")
        assert grid.zoomed and grid.at == 3
        await press(pilot, "escape")
        assert not grid.zoomed and isinstance(app.screen, RunScreen)
        await press(pilot, "end", "home")
        assert run_screen(app).curve == "loss"
        await press(pilot, "left", "up")
        assert grid.at == 0
        await press(pilot, "escape")
        assert app.screen.place == "runs"  # type: ignore[attr-defined]


async def test_the_mouse_chooses_zooms_and_switches_tabs(
    filled: Paths, app_on: AppOn, press: Press
) -> None:
    app = app_on(filled)
    async with app.run_test(size=LARGE) as pilot:
        app.open_run("kd")
        await press(pilot)
        screen = run_screen(app)
        await pilot.click("#chart", offset=(50, 3))
        await press(pilot)
        assert screen.grid.zoomed and screen.curve == "kl"
        await pilot.click("#chart", offset=(50, 3))
        assert not screen.grid.zoomed and screen.curve == "kl"
        await pilot.click("#tabs", offset=(16, 0))
        await press(pilot)
        assert screen.tab == "summary"


async def test_curves_are_drawn_over_tokens_flops_and_time(
    filled: Paths, app_on: AppOn, press: Press, shown: Shown, notified: Shown
) -> None:
    with Store(filled.store) as store:
        store.update_run("kd", info={"tokens": 100_000, "flops": 4e15})
    app = app_on(filled)
    async with app.run_test(size=LARGE) as pilot:
        app.open_run("kd")
        await press(pilot, "a")
        screen = run_screen(app)
        ends = curves_of(screen.grid)[0].points
        assert screen.axis == "tokens" and ends[-1][0] == pytest.approx(100_000)
        assert "by tokens" in shown(app) and "100000" in shown(app).replace(",", "")
        await press(pilot, "plus", "plus")
        assert screen.window == pytest.approx((37_500, 62_500), rel=0.02)
        await press(pilot, "a")
        assert screen.window is None and screen.axis == "FLOPs"
        assert curves_of(screen.grid)[0].points[-1][0] == pytest.approx(4e15)
        await press(pilot, "a")
        assert screen.axis == "minutes" and not any("-" in line for line in axis_lines(app, shown))
        await press(pilot, "a")
        assert screen.axis == "step" and "by " not in shown(app)
        await press(pilot, "escape")
        app.open_run("sft")  # has not stored what it cost
        await press(pilot, "a", "a")
        assert run_screen(app).axis == "minutes" and "FLOPs not known yet" in notified(app)
        await press(pilot, "escape")
        app.select(Selection(("kd", "sft")))
        app.open_run("kd")
        await press(pilot, "a", "a")
        # A curve that cannot be drawn over an axis does not vanish without a word.
        assert "sft: FLOPs not known" in shown(app) and len(curves_of(run_screen(app).grid)) == 1


def axis_lines(app: Any, shown: Shown) -> list[str]:
    """Return the lines below the charts."""
    return [line for line in shown(app).splitlines() if "minutes" in line and "by" not in line]


async def test_a_run_has_the_same_colour_in_the_list_in_its_chart_and_below_others(
    filled: Paths, app_on: AppOn, press: Press
) -> None:
    app = app_on(filled)
    async with app.run_test(size=LARGE) as pilot:
        await press(pilot)
        colours = app.run_colours()
        listing = app.screen.query_one("#list")
        row = next(row for row in listing.rows if row["id"] == "kd")  # type: ignore[attr-defined]
        swatch = app.screen.cell(row, listing.columns[0], 20)[0]  # type: ignore[attr-defined]
        assert swatch == ("▍", colours["kd"]) and len(set(colours.values())) >= 4
        for opened, other in (("kd", "sft"), ("sft", "kd")):
            app.select(Selection((other, opened)))
            app.open_run(opened)
            await press(pilot)
            roles = {one.name: one.role for one in curves_of(run_screen(app).grid)}
            assert roles == {opened: colours[opened], other: colours[other]}
            await press(pilot, "escape")


async def test_a_run_on_its_first_step_has_whole_steps_and_its_loss_chosen(
    filled: Paths, app_on: AppOn, press: Press, shown: Shown
) -> None:
    with Store(filled.store) as other:
        other.drop_points_after("dae", -1)
        points = [("general_loss", 0, 3.0, NOW), ("domain_loss", 0, 2.0, NOW)]
        other.add_progress("dae", points=[*points, ("loss", 1, 2.5, NOW + 3)], step=1)
    app = app_on(filled)
    async with app.run_test(size=SMALL) as pilot:
        app.open_run("dae")
        await press(pilot)
        assert run_screen(app).curve == "loss" and "loss" in shown(app)
        for _ in range(3):
            axes = [line for line in shown(app).splitlines() if line.rstrip().endswith("step")]
            assert not any("-" in line or "." in line for line in axes)
            await press(pilot, "right")


async def test_a_constant_that_was_smoothed_has_a_logarithmic_axis(
    filled: Paths, app_on: AppOn, press: Press, shown: Shown
) -> None:
    app = app_on(filled)
    async with app.run_test(size=LARGE) as pilot:
        app.open_run("kd")
        await press(pilot, "y", "m")
        assert "log, smoothed 0.6" in shown(app) and "memory_gb 11.2" in shown(app)


async def test_resizing_keeps_the_chosen_chart_in_view(
    filled: Paths, app_on: AppOn, press: Press, shown: Shown
) -> None:
    app = app_on(filled)
    async with app.run_test(size=LARGE) as pilot:
        app.open_run("kd")
        await press(pilot, "end")
        title = run_screen(app).grid.chosen.title
        for size in ((60, 15), (200, 60), (80, 24)):
            await pilot.resize_terminal(*size)
            await press(pilot)
            assert f" {title} " in shown(app)
        assert app.screen.query_one("#chart", ChartGrid).has_focus
