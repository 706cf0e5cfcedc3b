"""Before data has come, screens say that they read; afterwards, what is not there."""

from __future__ import annotations

import pytest

from kdharness.harness.paths import Paths
from kdharness.tui.app import HarnessApp
from kdharness.tui.screens.base import PlaceScreen
from support.app import LARGE, SMALL, AppOn, Press, Shown

pytestmark = pytest.mark.slow
CLAIMS = ("nothing", "no scores", "no checkpoint", "no two", "no answers", " 0 ")
"""Words of screens that found nothing."""


@pytest.mark.parametrize("place", ["leaderboard", "tradeoff", "experiments", "assets", "queue"])
async def test_nothing_is_claimed_before_data_has_come(
    place: str, filled: Paths, app_on: AppOn, shown: Shown, monkeypatch: pytest.MonkeyPatch
) -> None:
    app = app_on(filled)
    async with app.run_test(size=LARGE) as pilot:
        await pilot.pause()
        monkeypatch.setattr(PlaceScreen, "read", lambda *_, **__: None)
        monkeypatch.setattr(HarnessApp, "in_thread", lambda *_, **__: None)
        await app.action_go(place)
        await pilot.pause()
        text = "\n".join(shown(app).splitlines()[1:-2])  # without navigation, machine and keys
        assert "…" in text
        assert not [claim for claim in CLAIMS if claim in text], text


@pytest.mark.parametrize("size", [SMALL, LARGE], ids=str)
async def test_an_empty_home_is_told_with_what_to_do(
    size: tuple[int, int], paths: Paths, app_on: AppOn, shown: Shown, press: Press
) -> None:
    """At 120 columns a list has the height of its rows; without any, its sentence was cut off."""
    app = app_on(paths)
    async with app.run_test(size=size) as pilot:
        for key, told in {
            "2": "no scores yet: evaluate",
            "3": "no two scores to compare yet: evaluate",
            "Q": "nothing runs and nothing waits",
        }.items():
            await press(pilot, key)
            text = shown(app)
            assert told in text and "loading" not in text and "reading" not in text, text
            assert "--general" not in text


async def test_a_trade_off_without_scores_any_more_is_empty(
    filled: Paths, app_on: AppOn, shown: Shown, press: Press
) -> None:
    """Points of scores that were removed stayed on the screen."""
    app = app_on(filled)
    async with app.run_test(size=LARGE) as pilot:
        await press(pilot, "3")
        assert "no two scores" not in shown(app)
        app.store.db.execute("DELETE FROM judgments")
        app.store.db.conn.commit()
        app.screen.store_changed()  # type: ignore[attr-defined]
        await press(pilot)
        text = shown(app)
        assert "no two scores to compare yet" in text and "no checkpoint has both" in text
