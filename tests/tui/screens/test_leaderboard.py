"""The leaderboard screen by keyboard."""

from __future__ import annotations

import pytest

from kdharness.harness.paths import Paths
from kdharness.tui.widgets.table import Listing
from support.app import LARGE, AppOn, Press, Shown

pytestmark = pytest.mark.slow


async def test_published_scores_are_shown_on_request(
    filled: Paths, app_on: AppOn, shown: Shown, press: Press
) -> None:
    app = app_on(filled)
    async with app.run_test(size=LARGE) as pilot:
        await press(pilot, "2", "o", "b", "down", "down", "enter")
        await press(pilot, "end")
        names = {row["id"] for row in app.screen.query_one("#list", Listing).rows}
        assert "GPT-4" in names or "Flip-7B-Instruct-β" in names
        assert "¶" in shown(app)


async def test_leaderboard_sorting_views_and_help(
    filled: Paths, app_on: AppOn, shown: Shown
) -> None:
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
        # A score of which more is better is sorted from the best on, too.
        keys = [column.key for column in listing.columns]
        accuracy = next(key for key in keys if key.startswith("shop:"))
        await pilot.press(*["right"] * (keys.index(accuracy) - listing.active), "s")
        values = [row[accuracy] for row in listing.rows]
        assert values == sorted(values, reverse=True) and values[0] > values[-1]
        await pilot.press("b", "down", "down", "enter", "c")
        await pilot.pause()
        assert "coding" in shown(app)
        await pilot.press("escape")
        assert app.screen.place == "runs"  # type: ignore[attr-defined]
