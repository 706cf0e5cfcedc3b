"""The answer on top of Leaderboard and Trade-off, and the retention it asks for."""

from __future__ import annotations

from typing import Any

import pytest
from textual.widgets import Input, Static

from kdharness.harness.paths import Paths
from kdharness.harness.store import Store
from kdharness.tui.screens.answering import share_of
from kdharness.tui.settings import read_settings
from kdharness.tui.widgets.pane import Pane
from support.app import LARGE, SMALL, AppOn, Press, Shown
from support.tui_home import add_judgments, add_past_checkpoint


@pytest.fixture
def aligned(filled: Paths) -> Paths:
    """A home with a scored DAE checkpoint, whose parents are the reference and the expert."""
    with Store(filled.store) as store:
        add_past_checkpoint(store, "dae", "dae", {"reference": "kd", "expert": "expert"})
        add_judgments(store, "dae", 0.85)
    filled.settings.write_text('primary: {domain: "heldout:domain_loss"}\nkeep: 0.9\n', "utf-8")
    return filled


def answer_on(app: Any) -> str:
    return " ".join(str(app.screen.query_one("#answer", Static).render()).split())


@pytest.mark.slow
@pytest.mark.parametrize("size", [SMALL, LARGE], ids=["80x24", "120x40"])
async def test_both_screens_open_with_the_same_answer_and_follow_the_retention(
    aligned: Paths, app_on: AppOn, press: Press, shown: Shown, size: tuple[int, int]
) -> None:
    app = app_on(aligned)
    async with app.run_test(size=size) as pilot:
        await press(pilot, "2")
        await press(pilot)
        first = answer_on(app)
        assert "significant domain gain that retains at least 0.9 of the general score" in first
        assert "8 items of heldout:domain_loss (no judge; flagged subset)" in first
        await press(pilot, "3")
        await press(pilot)
        assert answer_on(app) == first and "gain that retains" in " ".join(shown(app).split())
        await press(pilot, "K")
        line = app.screen.query_one("#line", Input)
        assert line.value == "0.9"
        line.value = "much"
        await press(pilot, "enter")
        assert "a share such as 0.95" in shown(app)
        line.value = "150 %"
        await press(pilot, "enter")
        await press(pilot)
        nobody = "No checkpoint gains significantly in the domain and retains at least 1.5"
        assert nobody in answer_on(app)
        await press(pilot, "2")
        await press(pilot)
        assert "at least 1.5" in answer_on(app)
    assert read_settings(aligned).keep == 1.5
    assert read_settings(aligned).primary == {"domain": "heldout:domain_loss"}


@pytest.mark.slow
async def test_the_pane_of_a_point_has_gain_and_retention_with_intervals(
    aligned: Paths, app_on: AppOn, press: Press
) -> None:
    app = app_on(aligned)
    async with app.run_test(size=LARGE) as pilot:
        await press(pilot, "3")
        await press(pilot)
        screen = app.screen
        listing = screen.listing()  # type: ignore[attr-defined]
        listing.move_to([row["id"] for row in listing.rows].index("dae"))
        await press(pilot)
        pane = screen.query_one("#pane", Pane)
        text = "\n".join("".join(part for part, _ in line) for line in pane.source)
        assert text.startswith("dae  dae") and "gain" in text and "retention" in text
        assert text.count("├") >= 2 and "0.9" in text


@pytest.mark.slow
async def test_without_an_expert_the_best_on_the_domain_is_told(
    filled: Paths, app_on: AppOn, press: Press
) -> None:
    app = app_on(filled)
    async with app.run_test(size=(60, 15)) as pilot:
        await press(pilot, "2")
        await press(pilot)
        assert answer_on(app).startswith("No significant difference on shop:score between")
        assert "Based on" not in answer_on(app)  # no room for it
        await press(pilot, "3")
        await press(pilot)
        assert answer_on(app).startswith("No significant difference on shop:score between")


def test_shares_are_typed_as_fractions_or_percentages() -> None:
    assert [share_of(text) for text in ("0.95", " 95 % ", "95%", "1.2", "0")] == [
        0.95,
        0.95,
        0.95,
        1.2,
        0.0,
    ]
    assert [share_of(text) for text in ("", "%", "nan", "inf", "-1", "95", "x")] == [None] * 7


@pytest.mark.parametrize("value", ["-0.5", "most", "true", "[1]", "1e9", ".nan"])
def test_an_invalid_retention_in_the_settings_is_told_and_left_out(home: Paths, value: str) -> None:
    home.home.mkdir()
    home.settings.write_text(f"keep: {value}\ntheme: light\n", "utf-8")
    found = read_settings(home)
    assert found.keep == 0.98 and found.theme == "light"
    assert "settings.yaml: keep must be a share such as 0.98" in found.problem
