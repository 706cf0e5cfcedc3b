"""Finding things: help, the palette, filters, pickers, footers and the metrics that lead."""

from __future__ import annotations

import pytest
from textual.command import CommandPalette

from kdharness.harness.config.settings import load_settings
from kdharness.harness.paths import Paths
from kdharness.tui.palette import Commands
from kdharness.tui.screens.dialogs import Choose
from kdharness.tui.screens.new_run import NewRunScreen
from kdharness.tui.settings import read_settings, save_primary
from kdharness.tui.viewmodels.rows import Column
from kdharness.tui.widgets.table import Listing
from support.app import LARGE, SMALL, AppOn, Press, Shown, help_page, painted


async def test_question_mark_explains_symbols_and_keys(
    filled: Paths, app_on: AppOn, press: Press, shown: Shown
) -> None:
    app = app_on(filled)
    async with app.run_test(size=LARGE) as pilot:
        await press(pilot, "2")
        assert painted(app)[-1].text.startswith(" ? Help  q Quit ")
        await press(pilot, "question_mark")
        assert "the judge is a toy" in shown(app)
        text = help_page(app)
        assert "Toggle categories as columns" in text and "board.categories" in text
        await press(pilot, "question_mark", "colon")
        assert isinstance(app.screen, CommandPalette)


@pytest.mark.slow
async def test_the_palette_finds_runs_and_checkpoints(
    filled: Paths, app_on: AppOn, press: Press
) -> None:
    app = app_on(filled)
    async with app.run_test(size=LARGE) as pilot:
        await press(pilot, "4")
        provider = Commands(app.screen)
        await provider.startup()
        names = [str(hit.display) async for hit in provider.discover()]
        assert names[0] == "Choose" and "Back" in names[-20:]
        hits = {hit.text or str(hit.match_display): hit async for hit in provider.search("expert")}
        assert {"Run: expert", "Mark: expert"} <= {*hits}
        hits["Mark: expert"].command()  # type: ignore[call-arg]
        assert app.selection.names == ("expert",)


async def test_arrows_move_the_list_while_the_filter_is_typed(
    filled: Paths, app_on: AppOn, press: Press
) -> None:
    app = app_on(filled)
    async with app.run_test(size=SMALL) as pilot:
        await press(pilot, "slash", *"finished", "down", "down")
        listing = app.screen.query_one("#list", Listing)
        assert len(listing.rows) == 3 and listing.cursor == 2
        await press(pilot, "up", "enter", "enter")
        assert getattr(app.screen, "run_id", "") == listing.rows[1]["id"]


async def test_one_key_takes_or_leaves_a_filtered_choice(
    filled: Paths, app_on: AppOn, press: Press
) -> None:
    taken: list[list[str] | None] = []
    app = app_on(filled)
    async with app.run_test(size=LARGE) as pilot:
        for keys, result in (
            (["slash", "a", "down", "enter"], ["a2"]),
            (["slash", "a", "escape"], None),
        ):
            rows = [{"id": name, "what": "x" * 70} for name in ("a1", "b1", "a2")]
            columns = [Column("id", "name", 20), Column("what", "", 20, grow=1)]
            app.push_screen(Choose("Names", rows, columns), taken.append)
            await press(pilot)
            text = "\n".join(strip.text for strip in painted(app))
            assert "x" * 70 in text and "Esc cancel" in text
            await press(pilot, *keys)
            assert taken.pop() == result and not isinstance(app.screen, Choose)


@pytest.mark.slow
async def test_a_chosen_metric_leads_every_screen_and_is_kept(
    filled: Paths, app_on: AppOn, press: Press
) -> None:
    filled.settings.write_text("judge: openai:x\nprimary:\n  general: old:one\nkeys: {}\n", "utf-8")
    app = app_on(filled)
    async with app.run_test(size=LARGE) as pilot:
        await press(pilot, "2")
        listing = app.screen.query_one("#list", Listing)
        first = listing.columns[listing.active].key
        assert first == "shop:score"
        await press(pilot, "right", "right", "right")
        chosen = app.screen.figure.label  # type: ignore[attr-defined]
        assert chosen not in first
        await press(pilot, "d")
        assert app.screen.board.figures[0].label == chosen  # type: ignore[attr-defined]
        await press(pilot, "3")
        assert app.screen.view[1].label == chosen  # type: ignore[attr-defined]
        await press(pilot, "4")
        row = app.screen.query_one("#list", Listing).rows[0]
        assert f"{row['bench']}:{row['metric']}" == chosen
        await press(pilot, "1")
        runs = app.screen.query_one("#list", Listing)
        assert [c.title for c in runs.columns if c.key == "domain"] == [chosen.partition(":")[2]]
        assert app.screen.scores["kd"]["domain"] is not None  # type: ignore[attr-defined]
    assert read_settings(filled).primary["domain"] == chosen
    settings = load_settings(filled)
    assert settings.primary["domain"] == chosen and settings.judge == ["openai:x"]


def test_the_primary_metrics_are_one_line_and_leave_the_others(paths: Paths) -> None:
    paths.home.mkdir(parents=True)
    paths.settings.write_text("primary:\n  general: a:b\n# mine\ntheme: light\n", "utf-8")
    save_primary(paths, {"general": "x:y", "domain": 'odd: "name":z'})
    assert read_settings(paths).primary == {"general": "x:y", "domain": 'odd: "name":z'}
    assert "# mine\ntheme: light\n" in paths.settings.read_text("utf-8")
    paths.settings.write_text("primary: {speed: a}\n", "utf-8")
    assert "primary takes general and domain" in read_settings(paths).problem


@pytest.mark.slow
async def test_footers_at_80_columns_keep_help_quit_and_say_that_there_is_more(
    filled: Paths, app_on: AppOn, press: Press
) -> None:
    wanted = {
        "n": ("m Method", "s Start"),
        "3": ("g General", "d Domain", "i Intervals"),
        "5": ("d Next diff", "f Next failure", "c Choose"),
    }
    app = app_on(filled)
    async with app.run_test(size=SMALL) as pilot:
        for key, words in wanted.items():
            await press(pilot, key)
            line = painted(app)[-1].text
            assert line.startswith(" ? Help  q Quit ") and line.rstrip().endswith("…"), line
            assert all(word in line for word in words), line
            await press(pilot, "f2")


async def test_n_opens_a_new_run_from_any_list(filled: Paths, app_on: AppOn, press: Press) -> None:
    app = app_on(filled)
    async with app.run_test(size=LARGE) as pilot:
        await press(pilot, "4", "n")
        assert isinstance(app.screen, NewRunScreen)
