"""Finding things: help, the palette, filters, pickers, footers and the metrics that lead."""

from __future__ import annotations

import pytest
from textual.command import CommandPalette
from textual.widgets import Input

from kdharness.harness.config.settings import load_settings
from kdharness.harness.paths import Paths
from kdharness.harness.store import Store
from kdharness.tui.palette import Commands
from kdharness.tui.screens.dialogs import Choose
from kdharness.tui.screens.new_run import NewRunScreen
from kdharness.tui.settings import read_settings, save_primary
from kdharness.tui.viewmodels.rows import Column
from kdharness.tui.widgets.form_sheet import FormSheet
from kdharness.tui.widgets.table import Listing
from support.app import LARGE, SMALL, AppOn, Press, Shown, help_page, painted
from support.tui_home import add_past_run


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
        found = [hit async for hit in provider.discover()]
        assert not any(hit.help for hit in found) and "key c" in str(found[0].display)
        names = [hit.text for hit in found]
        assert names[0] == "Choose" and "Back" in names[-20:]
        hits = {hit.text: hit async for hit in provider.search("expert")}
        assert {"Run: expert", "Mark: expert"} <= {*hits}
        hits["Mark: expert"].command()  # type: ignore[call-arg]
        assert app.selection.names == ("expert",)


async def test_arrows_move_the_list_while_the_filter_is_typed(
    filled: Paths, app_on: AppOn, press: Press
) -> None:
    app = app_on(filled)
    async with app.run_test(size=SMALL) as pilot:
        listing = app.screen.query_one("#list", Listing)
        # Letters that move in a list are typed, as a public report of another tool asks for.
        await press(pilot, "slash", *"kj")
        assert app.screen.query_one("#filter", Input).value == "kj" and listing.words == "kj"
        await press(pilot, "escape", "slash", *"finished", "down", "down")
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
        for width in (60, 40, 20):
            await pilot.resize_terminal(width, 15)
            await pilot.pause()
            assert painted(app)[-1].text.startswith(" ? Help  q Quit ")


async def test_long_names_keep_both_ends_and_lists_count_their_rows(
    filled: Paths, app_on: AppOn, press: Press, shown: Shown
) -> None:
    with Store(filled.store) as store:
        for seed in (105, 106):
            add_past_run(store, f"sweep-lr0e-4-temperature2-layers12-seed{seed}", "kd", 50)
    app = app_on(filled)
    async with app.run_test(size=SMALL) as pilot:
        await press(pilot)
        text = shown(app)
        assert "seed105" in text and "seed106" in text and "run 8" in text
        await press(pilot, "slash", *"seed", "enter")
        assert "run 2 of 8" in shown(app)


async def test_editing_names_its_keys_and_keeps_its_row_in_view(
    filled: Paths, app_on: AppOn, press: Press, shown: Shown
) -> None:
    app = app_on(filled)
    async with app.run_test(size=SMALL) as pilot:
        await press(pilot, "n")
        sheet = app.screen.query_one(FormSheet)
        last = sheet.size.height - sheet.header_lines - 1
        rows = [i for i in range(last, last + 40) if sheet.rows[i]["field"].kind == "number"]
        await press(pilot, *["down"] * rows[0], "enter")
        assert "⏎ Set" in painted(app)[-1].text and "Esc Undo" in painted(app)[-1].text
        assert sheet.cursor - sheet.scroll_offset.y < sheet.size.height - sheet.header_lines


@pytest.mark.slow
async def test_the_judge_of_an_evaluation_is_checked_from_its_form(
    filled: Paths, app_on: AppOn, press: Press, shown: Shown, notified: Shown
) -> None:
    filled.settings.write_text("judge: openai:unknown\n", "utf-8")
    app = app_on(filled)
    async with app.run_test(size=LARGE) as pilot:
        await press(pilot, "6", "c")
        assert "Check openai:unknown?" in shown(app)


async def test_n_opens_a_new_run_from_any_list(filled: Paths, app_on: AppOn, press: Press) -> None:
    app = app_on(filled)
    async with app.run_test(size=LARGE) as pilot:
        await press(pilot, "4", "n")
        assert isinstance(app.screen, NewRunScreen)
