"""The runs screen by keyboard: its rows, and updates from the store."""

from __future__ import annotations

import pytest

from kdharness.harness.paths import Paths
from kdharness.harness.store import Store
from kdharness.tui.widgets.table import Listing
from support.app import AppOn, Shown


async def test_runs_show_status_models_and_time_left(
    filled: Paths, app_on: AppOn, shown: Shown
) -> None:
    app = app_on(filled)
    async with app.run_test(size=(80, 24)) as pilot:
        await pilot.pause()
        text = shown(app)
        assert "▶ running" in text and "✓ finished" in text and "✗ failed" in text
        assert "kd ← expert" in text
        assert "25:00" in text  # 90 steps took 900 s, 150 remain
        assert "0.987" in text


async def test_hostile_run_fields_are_shown_as_text(
    filled: Paths, app_on: AppOn, shown: Shown
) -> None:
    app = app_on(filled)
    async with app.run_test(size=(120, 40)) as pilot:
        await pilot.pause()
        text = shown(app)
        assert "\x1b" not in text and "\u202e" not in text and "\x00" not in text
        assert "red]x[/] \\x1b[31m\\x1b]52;c;aGk=\\x07" in text


@pytest.mark.slow
async def test_runs_are_filtered_sorted_and_marked(filled: Paths, app_on: AppOn) -> None:
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


async def test_runs_written_by_other_processes_appear(
    filled: Paths, app_on: AppOn, shown: Shown
) -> None:
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


async def test_unchanged_store_causes_no_repaint(filled: Paths, app_on: AppOn) -> None:
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


async def test_empty_store_shows_the_tour(home: Paths, app_on: AppOn, shown: Shown) -> None:
    app = app_on(home)
    async with app.run_test(size=(80, 24)) as pilot:
        await pilot.pause()
        text = shown(app)
        assert "run the demo" in text and "start your own run" in text
