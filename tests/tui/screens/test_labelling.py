"""Blind labelling by keyboard."""

from __future__ import annotations

import pytest

from kdharness.harness.analysis.labelling import current_labels
from kdharness.harness.paths import Paths
from kdharness.harness.store import Store
from kdharness.tui.screens.labelling import LabelScreen
from kdharness.tui.screens.transcripts import TranscriptsScreen
from kdharness.tui.viewmodels.selection import Selection
from support.app import LARGE, SMALL, AppOn, Press, Shown
from support.labelled_home import add_labels, add_pairs, add_ratings

pytestmark = pytest.mark.slow


async def test_answers_are_rated_blind_and_the_labels_are_shown_afterwards(
    filled: Paths, app_on: AppOn, shown: Shown, press: Press
) -> None:
    app = app_on(filled)
    async with app.run_test(size=SMALL) as pilot:
        await press(pilot, "5")
        transcripts = app.screen
        assert isinstance(transcripts, TranscriptsScreen)
        app.select(Selection(("sft", "kd")))
        transcripts.open("mt-bench", "q1")
        await press(pilot)
        await press(pilot, "L")
        screen = app.screen
        assert isinstance(screen, LabelScreen)
        total = len(screen.session.tasks)
        text = shown(app)
        assert f"1 of {total}" in text and "1-9 rate, 0 is 10" in text
        assert "Rating:" not in text and "openai" not in text
        assert screen.query_one("#first").border_title == "Answer"
        head = text.splitlines()[0]
        assert "sft" not in head and "kd" not in head
        labelled = screen.session.tasks[0]
        await press(pilot, "a")
        assert f"1 of {total}" in shown(app), "not a key for ratings"
        await press(pilot, "7", "s", "0", "u", "2")
        assert f"4 of {total}" in shown(app)
        await press(pilot, "escape")
        assert app.screen is transcripts
        transcripts.open("mt-bench", labelled.answer.item)
        await press(pilot)
        transcripts.query_one("#verdicts").add_class("tall")
        await press(pilot)
        assert "label: rating" in shown(app) and "blind" in shown(app)
    with Store(filled.store) as store:
        assert [label.value for label in store.labels()] == [7.0, 10.0, None, 2.0]
        assert [label.value for label in current_labels(store.labels())] == [7.0, 2.0]
        assert store.labels()[0].answer == labelled.answer.id


async def test_pairs_are_compared_in_an_order_that_is_recorded(
    home: Paths, app_on: AppOn, shown: Shown, press: Press
) -> None:
    with Store(home.store) as store:
        add_pairs(store, "kd", "base", [1.0, 0.0, 1.0, 0.0, 1.0, 0.0])
    app = app_on(home)
    async with app.run_test(size=LARGE) as pilot:
        await press(pilot, "5")
        transcripts = app.screen
        assert isinstance(transcripts, TranscriptsScreen)
        # The only one with answers is shown on both sides.
        assert transcripts.names == ("kd", "kd") and transcripts.bench == "mt-bench-pair"
        await press(pilot, "L")
        text = shown(app)
        assert "Answer a" in text and "Answer b" in text and "1 of 6" in text
        theme = app.theme
        await press(pilot, *"aaaaat")
        assert "6 labels stored" in shown(app) and app.theme == theme
        await press(pilot, "3", "L")
        assert app.screen is transcripts, "digits lead nowhere while labelling"
    with Store(home.store) as store:
        labels = store.labels()
    assert labels.pop().value == 0.5
    assert {(label.value, label.info["swapped"]) for label in labels} == {(1.0, False), (0.0, True)}


async def test_nothing_to_label_is_said(
    filled: Paths, app_on: AppOn, shown: Shown, press: Press
) -> None:
    app = app_on(filled)
    async with app.run_test(size=SMALL) as pilot:
        await press(pilot, "5")
        transcripts = app.screen
        assert isinstance(transcripts, TranscriptsScreen)
        app.select(Selection(("sft", "kd")))
        transcripts.open("shop")
        await press(pilot)
        await press(pilot, "L")
        assert "nothing is left to label" in shown(app)
        await press(pilot, "1", "u", "q")
        assert app.screen is transcripts


async def test_the_judges_screen_shows_the_agreement_with_people(
    home: Paths, app_on: AppOn, shown: Shown, press: Press
) -> None:
    with Store(home.store) as store:
        add_ratings(store, "kd", [float(n % 10 + 1) for n in range(20)])
        add_labels(store, "kd", [float(n % 10 + 1) for n in range(20)])
    app = app_on(home)
    async with app.run_test(size=LARGE) as pilot:
        await press(pilot, "7")
        await press(pilot)
        text = shown(app)
        assert "agrees with people on mt-bench, rating (weighted kappa): 1" in text
        assert "no report card" in text
