"""One selection: what is marked on a screen is shown and compared on all others."""

from __future__ import annotations

from dataclasses import replace

import pytest

from kdharness.harness.paths import Paths
from kdharness.harness.store import Store
from kdharness.tui.screens.compare import CompareScreen
from kdharness.tui.screens.run import RunScreen
from kdharness.tui.screens.transcripts import TranscriptsScreen
from kdharness.tui.viewmodels.selection import Selection
from kdharness.tui.widgets.table import Listing
from support.app import LARGE, SMALL, AppOn, Press, Shown, answered, painted
from support.tui_home import add_past_checkpoint

PLACES = "123456789"


def mark(app: object, *names: str) -> list[str]:
    """Return the keys that mark these rows of the list, from its first row on."""
    listing = app.screen.query_one("#list", Listing)  # type: ignore[attr-defined]
    rows = [row["id"] for row in listing.rows]
    keys = []
    for name in names:
        keys += ["home", *["down"] * rows.index(name), "space"]
    return keys


async def test_marks_are_a_chip_on_every_screen(
    filled: Paths,
    app_on: AppOn,
    press: Press,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("kdharness.tui.commands.run_command", answered(0, "[]"))
    app = app_on(filled)
    async with app.run_test(size=SMALL) as pilot:
        await press(pilot)
        await press(pilot, *mark(app, "kd", "expert"))
        for place in PLACES:
            await press(pilot, place)
            top = [strip.text for strip in painted(app)[:2]]
            assert top[1].strip() == "kd vs expert", place
        await press(pilot, "1", "x")
        assert painted(app)[1].text.strip() == "expert vs kd"
        await pilot.resize_terminal(120, 40)
        await pilot.pause()
        assert painted(app)[0].text.rstrip().endswith("expert vs kd")


@pytest.mark.slow
async def test_compare_and_transcripts_follow_every_change_of_the_marks(
    filled: Paths, app_on: AppOn, press: Press
) -> None:
    app = app_on(filled)
    async with app.run_test(size=LARGE) as pilot:
        await press(pilot, "5", "2")
        await press(pilot, *mark(app, "kd", "expert"), "4")
        compare = app.screen
        assert isinstance(compare, CompareScreen) and compare.names == ["kd", "expert"]
        await press(pilot, "5")
        texts = app.screen
        assert isinstance(texts, TranscriptsScreen) and texts.names == ("kd", "expert")
        # Choosing on one screen unmarks on the others.
        await press(pilot, "4", "c", "home")
        await press(pilot, "down", "down", "space", "up", "up", "space", "enter")
        assert compare.names == ["kd", "sft"]
        await press(pilot, "2")
        assert app.screen.query_one("#list", Listing).marked == ["kd", "sft"]
        await press(pilot, *mark(app, "sft", "big-model"), "5")
        assert texts.names == ("kd", "big-model")
        await press(pilot, "x")
        assert texts.names == ("big-model", "kd")
        await press(pilot, "4")
        assert compare.names == ["big-model", "kd"] and compare.found.lines
        assert compare.found.sides[0].checkpoint.name == "big-model"


@pytest.mark.slow
async def test_the_third_one_is_turned_to_on_all_screens(
    filled: Paths, app_on: AppOn, press: Press, notified: Shown
) -> None:
    app = app_on(filled)
    async with app.run_test(size=LARGE) as pilot:
        app.select(Selection(("kd", "sft", "expert")))
        await press(pilot, "4", "right_square_bracket", "5")
        assert isinstance(app.screen, TranscriptsScreen)
        assert app.screen.names == ("kd", "expert")
        await press(pilot, "x")
        assert app.selection.names == ("expert", "sft", "kd")
        app.select(Selection(("kd", "sft", "expert", "big-model", "dae")))
        await press(pilot)
        assert len(app.selection.names) == 4 and "without dae" in notified(app)


@pytest.mark.slow
async def test_compare_opens_the_newest_two_that_share_a_benchmark(
    filled: Paths, app_on: AppOn, press: Press
) -> None:
    with Store(filled.store) as store:
        add_past_checkpoint(store, "z-new", "dae", {})
        only = store.judgments("id-kd", "shop")
        store.add_judgments(
            [replace(j, id=f"z{j.id}", checkpoint="id-z-new", bench="mine") for j in only]
        )
        for name, later in (("z-new", 9), ("expert", 5)):
            store.db.execute(
                "UPDATE checkpoints SET created = created + ? WHERE name = ?", [later, name]
            )
        store.db.conn.commit()
    app = app_on(filled)
    async with app.run_test(size=LARGE) as pilot:
        await press(pilot, "4")
        assert isinstance(app.screen, CompareScreen) and app.screen.names == ["sft", "expert"]
        assert app.screen.found.lines
        # One mark is the base, and the newest one that shares scores is the other.
        app.toggle_selected("kd")
        await press(pilot)
        assert app.screen.names == ["kd", "expert"]
        await press(pilot, "x")
        assert app.selection.names == ("expert", "kd") == tuple(app.screen.names)


async def test_a_run_shows_the_curves_of_what_is_selected(
    filled: Paths, app_on: AppOn, press: Press, notified: Shown
) -> None:
    app = app_on(filled)
    async with app.run_test(size=LARGE) as pilot:
        await press(pilot)
        await press(pilot, *mark(app, "dae", "kd", "scores"))
        assert app.selection.names == ("dae", "kd") and "makes no checkpoint" in notified(app)
        await press(pilot, *mark(app, "kd")[:-1], "enter")
        assert isinstance(app.screen, RunScreen) and app.screen.others == ["dae"]
        with Store(filled.store) as store:
            store.update_run("dae", checkpoint="expert")
        app.follow()
        await press(pilot)
        assert app.selection.names == ("expert", "kd")
