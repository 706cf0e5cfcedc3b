"""The run screen by keyboard: curves, tabs, pause and stop, overlays, export."""

from __future__ import annotations

from typing import Any
from xml.etree import ElementTree

import pytest

from kdharness.harness.paths import Paths
from kdharness.harness.store import Store
from kdharness.harness.types import Request, RunStatus
from kdharness.tui.screens.run import RunScreen
from kdharness.tui.viewmodels.selection import Selection
from kdharness.tui.widgets.chart_grid import ChartGrid
from kdharness.tui.widgets.table import Listing
from support.app import LARGE, AppOn, Press, Shown, curves_of, painted

pytestmark = pytest.mark.slow


async def test_keys_change_curve_zoom_smoothing_and_scale(
    filled: Paths, app_on: AppOn, shown: Shown, press: Press
) -> None:
    app = app_on(filled)
    async with app.run_test(size=LARGE) as pilot:
        app.open_run("kd")
        await press(pilot, "right")
        screen = app.screen
        assert isinstance(screen, RunScreen) and screen.curve == "kl"
        chart = screen.query_one("#chart", ChartGrid)
        whole = len(curves_of(chart)[0].points)
        assert whole == 200
        await press(pilot, "plus", "plus")
        assert len(curves_of(chart)[0].points) < 60 and screen.window is not None
        before = screen.window
        await press(pilot, "greater_than_sign")
        assert screen.window[0] > before[0]
        await press(pilot, "less_than_sign", "enter", "right")
        assert screen.window[0] > before[0] and screen.curve == "kl"
        await press(pilot, "escape")
        await press(pilot, "0", "y", "m")
        assert chart.chosen.log and screen.weight == 0.6 and screen.window is None
        text = shown(app)
        assert "log, smoothed 0.6" in text and "general_loss" in text and "GB" in text


async def test_curves_of_other_runs_are_overlaid(
    filled: Paths, app_on: AppOn, shown: Shown, press: Press
) -> None:
    app = app_on(filled)
    async with app.run_test(size=LARGE) as pilot:
        app.open_run("kd")
        await press(pilot, "o", "slash", "s", "f", "t", "enter", "home", "space", "enter")
        assert "A kd" in shown(app) and "B " in shown(app)
        assert len(curves_of(app.screen.query_one("#chart", ChartGrid))) == 2


async def test_new_points_are_added_and_a_resumed_run_is_reloaded(
    filled: Paths, app_on: AppOn, press: Press
) -> None:
    app = app_on(filled)
    async with app.run_test(size=LARGE) as pilot:
        app.open_run("dae")
        await press(pilot, "down")
        book = app.screen.book  # type: ignore[attr-defined]
        assert book.last_step("dae", "loss") == 90
        with Store(filled.store) as other:
            other.add_progress("dae", points=[("loss", 91, 0.5, 0.0)], step=91)
        app.follow()
        await press(pilot)
        assert book.last("dae", "loss") == 0.5
        with Store(filled.store) as other:
            other.drop_points_after("dae", 40)
            other.update_run("dae", step=40)
        app.follow()
        await press(pilot)
        assert book.last_step("dae", "loss") == 40


async def test_the_loss_is_shown_from_the_start_whatever_curve_comes_first(
    filled: Paths, app_on: AppOn, shown: Shown, press: Press
) -> None:
    with Store(filled.store) as other:
        other.drop_points_after("dae", -1)
        other.add_progress("dae", points=[("general_loss", 0, 3.0, 0.0)], step=0)
    app = app_on(filled)
    async with app.run_test(size=LARGE) as pilot:
        app.open_run("dae")
        await press(pilot)
        assert "no loss yet" in shown(app)
        with Store(filled.store) as other:
            other.add_progress("dae", points=[("loss", 1, 2.5, 0.0)], step=1)
        app.follow()
        await press(pilot)
        screen = app.screen
        assert isinstance(screen, RunScreen) and screen.curve == "loss"
        assert len(curves_of(screen.query_one("#chart", ChartGrid))) == 1
        assert screen.grid.charts[0].title == "loss"
        axes = [line for line in shown(app).splitlines() if "step" in line]
        assert axes and not any("-" in line or "0.5" in line for line in axes)
        await press(pilot, "right")
        assert screen.curve == "general_loss"


async def test_a_run_without_a_loss_shows_its_first_curve(
    filled: Paths, app_on: AppOn, press: Press
) -> None:
    with Store(filled.store) as other:
        other.drop_points_after("dae", -1)
        other.add_progress("dae", points=[("score", 5, 3.0, 0.0)], step=5)
    app = app_on(filled)
    async with app.run_test(size=LARGE) as pilot:
        app.open_run("dae")
        await press(pilot)
        assert app.screen.curve == "score"  # type: ignore[attr-defined]


async def test_log_config_and_lineage_tabs(
    filled: Paths, app_on: AppOn, shown: Shown, press: Press
) -> None:
    app = app_on(filled)
    async with app.run_test(size=LARGE) as pilot:
        app.open_run("dae")
        await press(pilot, "g")
        text = shown(app)
        assert "30,876 tokens" in text and "\\x1b]52;c;aGk=" in text and "\x1b" not in text
        await press(pilot, "f")
        assert "learning_rate: 2.0e-05" in shown(app)
        await press(pilot, "i")
        text = shown(app)
        assert "expert: expert" in text and "teacher: big-model" in text
        listing = app.screen.query_one("#lineage", Listing)
        listing.move_to([row["name"] for row in listing.rows].index("kd"))
        await press(pilot, "enter")
        assert isinstance(app.screen, RunScreen) and app.screen.run_id == "kd"
        await press(pilot, "escape", "escape")
        assert app.screen.place == "runs"  # type: ignore[attr-defined]


async def test_stop_asks_for_confirmation(
    filled: Paths, app_on: AppOn, shown: Shown, press: Press
) -> None:
    app = app_on(filled)
    async with app.run_test(size=LARGE) as pilot:
        app.open_run("dae")
        await press(pilot, "X")
        assert "Stop dae?" in shown(app)
        await press(pilot, "enter", "n")
        with Store(filled.store) as store:
            assert store.take_requests("dae") == []
        await press(pilot, "X", "y")
        with Store(filled.store) as store:
            assert store.take_requests("dae") == [Request.STOP]


async def test_pause_and_resume(
    filled: Paths, app_on: AppOn, press: Press, monkeypatch: pytest.MonkeyPatch
) -> None:
    resumed = []
    monkeypatch.setattr(
        "kdharness.harness.runs.launch.spawn_worker",
        lambda paths, store, run, *a, **k: resumed.append(run),
    )
    app = app_on(filled)
    async with app.run_test(size=LARGE) as pilot:
        app.open_run("dae")
        await press(pilot, "p")
        with Store(filled.store) as store:
            assert store.take_requests("dae") == [Request.PAUSE]
            store.update_run("dae", status=RunStatus.PAUSED.value)
        await press(pilot, "p")
        with Store(filled.store) as store:
            assert store.take_requests("dae") == [Request.RESUME]
        await press(pilot, "escape")
        app.open_run("scores")
        await press(pilot, "p")
        assert resumed == ["scores"]


async def test_stopping_a_finished_run_is_notified(
    filled: Paths, app_on: AppOn, notified: Shown, press: Press
) -> None:
    app = app_on(filled)
    async with app.run_test(size=LARGE) as pilot:
        app.open_run("kd")
        await press(pilot, "X", "y")
        assert "is not running" in notified(app)


async def test_charts_are_exported(
    filled: Paths, app_on: AppOn, press: Press, shown: Shown, tmp_path: Any
) -> None:
    app = app_on(filled)
    target = tmp_path / "loss.svg"
    async with app.run_test(size=LARGE) as pilot:
        app.open_run("kd")
        await press(pilot, "a", "y", "e")
        line = app.screen.query_one("#line")
        line.value = str(target.with_suffix(".png"))  # type: ignore[attr-defined]
        await press(pilot, "enter")
        assert not list(tmp_path.glob("loss*")) and "extensions .svg" in shown(app)
        line.value = str(target)  # type: ignore[attr-defined]
        await press(pilot, "enter")
    text = target.read_text("utf-8")
    assert ElementTree.fromstring(text).tag.endswith("svg")
    assert ">tokens</text>" in text and ">loss</text>" in text


async def test_charts_work_without_colour(
    filled: Paths, app_on: AppOn, shown: Shown, press: Press, monkeypatch: pytest.MonkeyPatch
) -> None:
    """textual-plot fails here: a segment without a style under NO_COLOR."""
    monkeypatch.setenv("NO_COLOR", "1")
    app = app_on(filled)
    async with app.run_test(size=(80, 24)) as pilot:
        app.select(Selection(("kd", "sft")))
        app.open_run("kd")
        await press(pilot, "down", "up")
        assert "A kd" in shown(app)
        styles = [s.style for strip in painted(app) for s in strip]
        assert all(s is None or s.color is None or s.color.is_default for s in styles)
        await press(pilot, "3")
        assert "●" in shown(app)
