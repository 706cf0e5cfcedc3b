"""Names, answers and errors with markup or control characters, on every screen."""

from __future__ import annotations

from dataclasses import replace

import pytest

from kdharness.harness.paths import Paths
from kdharness.harness.store import Store
from support.app import AppOn, Press, Shown

pytestmark = pytest.mark.slow

NAME = (
    "[bold]x[/] [@click=app.leave]y[/] \x1b]8;;http://e\x1b\\l \x1b]52;c;aGk=\x07 \u202e\u2066z\x00"
)
TEXTS = {
    "q1": "[/nothing] [red" + "]" * 50,
    "q2": "m" * 1_000_000,
    "q3": "\u202e" * 5000 + "x",
    "q4": "e" + "\u0301" * 10_000,
    "q5": "\x00\x9b31m\x1b[2J" * 200,
    "q6": "日本語🎉👩‍👩‍👧‍👦" * 3000,
    "q7": "\r\n\t\v\f\x85\u2028\u2029" * 100,
    "q8": "",
}


@pytest.fixture
def hostile_home(filled: Paths) -> Paths:
    """A store with hostile checkpoint names, answers, judgments and run errors."""
    with Store(filled.store) as store:
        store.db.execute("UPDATE checkpoints SET name = ? WHERE id = 'id-kd'", [NAME])
        store.db.conn.commit()
        answers = store.answers("id-kd", "mt-bench")
        store.add_answers([replace(a, text=TEXTS[a.item]) for a in answers])
        judgments = store.judgments("id-kd", "mt-bench")
        store.add_judgments([replace(j, raw=NAME * 50, category=NAME) for j in judgments])
        store.update_run("kd", error=NAME, info={"stage": NAME})
        store.add_card(NAME, {"labels": [NAME], "checks": {NAME: {"share": 0.5}}})
    return filled


def assert_harmless(text: str) -> None:
    """Check that the text has no terminal control characters."""
    assert not set(text) & set("\x1b\x07\x00\x9b\u202e\u2066\r\x85\x0b")


@pytest.mark.parametrize("size", [(80, 24), (120, 40)], ids=["80x24", "120x40"])
async def test_every_screen_shows_hostile_text_as_text(
    hostile_home: Paths, app_on: AppOn, shown: Shown, press: Press, size: tuple[int, int]
) -> None:
    app = app_on(hostile_home)
    async with app.run_test(size=size) as pilot:
        for keys in (
            ["end"],
            ["2", "b", "down", "enter", "c"],
            ["question_mark"],
            ["escape", "3", "g"],
            ["escape"],
            ["4", "c"],
            ["escape", "l"],
            ["7", "down"],
            ["6", "o"],
            ["escape"],
        ):
            await press(pilot, *keys)
            assert_harmless(shown(app))
        app.open_run("kd")
        await press(pilot, "g")
        assert_harmless(shown(app))
        await press(pilot, "i")
        assert_harmless(shown(app))
    assert app.return_code in (None, 0)


async def test_transcripts_with_hostile_answers_can_be_scrolled(
    hostile_home: Paths, app_on: AppOn, shown: Shown, press: Press
) -> None:
    app = app_on(hostile_home)
    async with app.run_test(size=(80, 24)) as pilot:
        await app.open_transcripts(NAME, "sft", "mt-bench", "q1")
        await press(pilot)
        assert "[/nothing]" in shown(app) and "[red]]]" in shown(app)
        assert "[bold]x[/]" in shown(app)
        for _ in range(8):
            assert_harmless(shown(app))
            await press(pilot, "pagedown", "end", "home", "right")
        await press(pilot, "l", "escape")
        assert_harmless(shown(app))
