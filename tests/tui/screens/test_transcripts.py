"""The transcripts screen by keyboard: navigation, synchronized scrolling, prompts, export."""

from __future__ import annotations

from pathlib import Path

import pytest
from textual.widgets import Input

from kdharness.harness.paths import Paths
from kdharness.harness.store import Store
from kdharness.tui.screens.transcripts import TranscriptsScreen
from kdharness.tui.viewmodels.selection import Selection
from kdharness.tui.widgets.text_view import TextView
from support.app import LARGE, AppOn, Press, Shown
from support.labelled_home import add_pairs

pytestmark = pytest.mark.slow

# ---------------------------------------------------------------- transcripts


async def test_transcripts_navigation_synchronized_scrolling_and_export(
    filled: Paths, app_on: AppOn, shown: Shown, press: Press, tmp_path: Path
) -> None:
    with Store(filled.store) as store:
        answers = store.answers("id-kd", "mt-bench")
        from dataclasses import replace

        store.add_answers(
            [
                replace(a, text="\n".join(f"line {i}" for i in range(200)))
                for a in answers
                if a.item == "q3"
            ]
        )
    app = app_on(filled)
    async with app.run_test(size=(80, 24)) as pilot:
        await press(pilot, "5")
        screen = app.screen
        assert isinstance(screen, TranscriptsScreen)
        app.select(Selection(("sft", "kd")))
        screen.open("mt-bench", "q1")
        await press(pilot)
        await press(pilot, "right")
        text = shown(app)
        assert "[bold" in text and "\\x1b[31m" in text and "\x1b" not in text
        assert "\u202e" not in text and "Rating: [[" in text
        await press(pilot, "right", "pagedown")
        first, second = screen.query_one("#first", TextView), screen.query_one("#second", TextView)
        assert second.scroll_offset.y == first.scroll_offset.y
        screen.query_one("#second", TextView).focus()
        await press(pilot, "pagedown", "pagedown")
        assert second.scroll_offset.y > 10
        await press(pilot, "f")
        assert screen.exchange is not None and screen.exchange.item == "q6"
        assert "✗ failure" in shown(app) and "unreadable" in shown(app)
        await press(pilot, "d", "l", "home", "enter")
        assert screen.exchange.item == "q1"
        await press(pilot, "w")
        target = tmp_path / "x.md"
        app.screen.query_one("#line", Input).value = str(target)
        await press(pilot, "enter")
        await press(pilot, "b", "down", "enter")
        assert screen.bench == "shop"
    assert "## kd" in target.read_text() and "Rating: [[" in target.read_text()


async def test_prompt_is_shown_as_unavailable_without_the_benchmark(
    filled: Paths, app_on: AppOn, shown: Shown, press: Press
) -> None:
    app = app_on(filled)
    async with app.run_test(size=LARGE) as pilot:
        await press(pilot, "5")
        assert "prompt not available" in shown(app)


# ---------------------------------------------------------------- store updates


async def test_store_update_keeps_the_item_being_opened(
    filled: Paths, app_on: AppOn, press: Press
) -> None:
    app = app_on(filled)
    async with app.run_test(size=LARGE) as pilot:
        await press(pilot, "5")
        screen = app.screen
        assert isinstance(screen, TranscriptsScreen) and len(screen.transcript.exchanges) > 2
        item = screen.transcript.exchanges[2].item
        screen.open(screen.bench, item)
        screen.store_changed()
        await press(pilot)
        assert screen.exchange is not None and screen.exchange.item == item


@pytest.mark.parametrize("size", [(80, 24), (120, 40)], ids=str)
async def test_the_baselines_answer_is_beside_the_two_where_there_is_room(
    size: tuple[int, int], home: Paths, app_on: AppOn, shown: Shown, press: Press
) -> None:
    with Store(home.store) as store:
        for name in ("kd", "dae"):
            add_pairs(store, name, "strong-model", [1.0, 0.0, 1.0])
        # Pairs of MT-Bench are about the answers to MT-Bench.
        store.db.execute("UPDATE answers SET bench = 'mt-bench'")
    app = app_on(home)
    async with app.run_test(size=size) as pilot:
        await press(pilot, "5")
        screen = app.screen
        assert isinstance(screen, TranscriptsScreen)
        screen.open("mt-bench-pair", "q1")
        await press(pilot)
        if size[0] < 110:
            assert "compared with" not in shown(app)
            await press(pilot, "o")
        text = shown(app)
        # In 80 columns the answer is broken over lines.
        assert "compared with" in text and "strong" in text and "answer 1" in text
        await press(pilot, "right")
        assert "answer 2" in shown(app) and "answer 1" not in shown(app)
        assert "strong-model" not in screen.query_one("#others", TextView).border_title
        await press(pilot, "o")
        assert "compared with" not in shown(app)
        # What the user chose stays chosen.
        await press(pilot, "left")
        assert "compared with" not in shown(app)


async def test_nothing_is_beside_answers_that_were_compared_with_nothing(
    filled: Paths, app_on: AppOn, shown: Shown, press: Press
) -> None:
    app = app_on(filled)
    async with app.run_test(size=LARGE) as pilot:
        await press(pilot, "5")
        assert "nothing to compare with" not in shown(app)
        await press(pilot, "o")
        assert "nothing to compare with" in shown(app)
