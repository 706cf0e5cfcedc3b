"""The compare screen by keyboard: from marked checkpoints down to an answer."""

from __future__ import annotations

import pytest

from kdharness.harness.paths import Paths
from kdharness.harness.store import Store
from kdharness.tui.screens.compare import CompareScreen
from kdharness.tui.screens.transcripts import TranscriptsScreen
from support.app import LARGE, AppOn, Press, Shown

pytestmark = pytest.mark.slow


async def test_compare_marked_checkpoints_down_to_an_answer(
    filled: Paths, app_on: AppOn, shown: Shown, press: Press
) -> None:
    app = app_on(filled)
    async with app.run_test(size=LARGE) as pilot:
        await press(pilot, "2", "space", "down", "space", "down", "space", "4")
        screen = app.screen
        assert isinstance(screen, CompareScreen) and len(screen.names) == 3
        text = shown(app)
        assert "B − A" in text and "95 % interval" in text and any(mark in text for mark in "▼▲△▽≈")
        first = screen.chosen
        await press(pilot, "right_square_bracket")
        assert screen.chosen != first
        await press(pilot, "g")
        assert "method" in shown(app)
        await press(pilot, "o")
        assert "FLOPs with ancestors" in shown(app) and "judge calls" in shown(app)
        await press(pilot, "enter")
        assert app.screen is screen  # a cost row has no answer to open
        await press(pilot, "l")
        listing = screen.listing()
        assert listing.rows and listing.rows[0]["flip"]
        item, bench = listing.rows[0]["item"], listing.rows[0]["bench"]
        await press(pilot, "enter")
        assert isinstance(app.screen, TranscriptsScreen)
        exchange = app.screen.exchange
        assert exchange is not None and exchange.item == item and app.screen.bench == bench


async def test_compare_gives_no_interval_for_two_items(
    filled: Paths, app_on: AppOn, shown: Shown, press: Press
) -> None:
    with Store(filled.store) as store:
        store.db.execute(
            "DELETE FROM judgments WHERE bench != 'mt-bench' OR item NOT IN "
            "(SELECT DISTINCT item FROM judgments WHERE bench = 'mt-bench' LIMIT 2)"
        )
        store.db.conn.commit()
    app = app_on(filled)
    async with app.run_test(size=LARGE) as pilot:
        await press(pilot, "2", "space", "down", "space", "down", "space", "4")
        screen = app.screen
        assert isinstance(screen, CompareScreen) and screen.found.lines
        gaps = [pair.gap for line in screen.found.lines for pair in line.others.values()]
        assert gaps and all(gap.low is None and gap.n == 2 for gap in gaps)
        text = shown(app)
        assert "≈" in text and not any(mark in text for mark in "▲▼△▽")
        assert "not significantly different" in text and "too few items for an interval" in text


async def test_compare_requires_two_checkpoints(
    filled: Paths, app_on: AppOn, notified: Shown, press: Press
) -> None:
    app = app_on(filled)
    async with app.run_test(size=(80, 24)) as pilot:
        await press(pilot, "4")
        screen = app.screen
        assert isinstance(screen, CompareScreen) and screen.names == ["kd", "sft"]
        # The two are marked already: unmarking both leaves the row under the cursor.
        await press(pilot, "c", "home", "space", "down", "space", "enter")
        assert app.screen is screen and screen.names == ["kd", "sft"]
        assert "mark at least two" in notified(app)
        await press(pilot, "u")
        assert app.screen is not screen and getattr(app.screen, "run_id", None) == "kd"


async def test_the_profile_shows_what_changed_against_the_base(
    filled: Paths, app_on: AppOn, shown: Shown, press: Press
) -> None:
    app = app_on(filled)
    async with app.run_test(size=LARGE) as pilot:
        await press(pilot, "2", "space", "down", "space", "down", "space", "4", "p")
        screen = app.screen
        assert isinstance(screen, CompareScreen)
        rows = screen.listing().rows
        assert screen.profile is not None
        mine = [c for c in screen.profile.changes if c.checkpoint == screen.chosen]
        left = [row["metric"] for row in rows if row["part"] == "left out"]
        assert left == list(screen.profile.few)
        assert len(rows) - len(left) == len(mine) > 0 and "open answers" in shown(app)
        await press(pilot, "enter", "right_square_bracket")
        assert app.screen is screen
        assert {row["id"] for row in screen.listing().rows if row["part"] != "left out"} == {
            f"{c.part}:{c.bench}:{c.metric}:{c.judge}"
            for c in screen.profile.changes
            if c.checkpoint == screen.chosen
        }
