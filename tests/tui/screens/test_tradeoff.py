"""The trade-off screen by keyboard: axes, Pareto front, exports, and merge curves."""

from __future__ import annotations

import csv
import json
from pathlib import Path

import pytest
from textual.widgets import Input

from kdharness.harness.paths import Paths
from kdharness.harness.store import Store
from kdharness.harness.types import Checkpoint
from kdharness.tui.screens.run import RunScreen
from kdharness.tui.screens.tradeoff import TradeOffScreen, merge_curves
from kdharness.tui.widgets.chart import PlaneChart
from support.app import LARGE, AppOn, Press, Shown

pytestmark = pytest.mark.slow


async def test_tradeoff_axes_whiskers_reference_and_opening_a_point(
    filled: Paths, app_on: AppOn, shown: Shown, press: Press
) -> None:
    app = app_on(filled)
    async with app.run_test(size=LARGE) as pilot:
        await press(pilot, "3")
        screen = app.screen
        assert isinstance(screen, TradeOffScreen) and screen.view is not None
        assert screen.view[0].label == "heldout:general_loss"
        assert "(lower is better)" in shown(app) and "●" in shown(app)
        await press(pilot, "g", "slash", *"mt", "minus", *"bench", "enter")
        assert screen.view[0].label.startswith("mt-bench:")
        await press(pilot, "i")
        assert not screen.query_one("#chart", PlaneChart).plane.whiskers
        await press(pilot, "r", "slash", "k", "d", "enter")
        assert screen.view[3][0] == "kd"
        listing = screen.listing()
        listing.move_to([row["id"] for row in listing.rows].index("expert"))
        await press(pilot, "enter")
        assert isinstance(app.screen, RunScreen) and app.screen.run_id == "expert"


async def test_table_and_chart_are_exported(
    filled: Paths, app_on: AppOn, press: Press, tmp_path: Path
) -> None:
    app = app_on(filled)
    async with app.run_test(size=LARGE) as pilot:
        await press(pilot, "3")
        for key, name in (("e", "t.csv"), ("e", "t.json"), ("e", "t.md"), ("p", "t.svg")):
            await press(pilot, key)
            app.screen.query_one("#line", Input).value = str(tmp_path / name)
            await press(pilot, "enter")
    with (tmp_path / "t.csv").open() as stream:
        assert {row["checkpoint"] for row in csv.DictReader(stream)} >= {"kd", "sft", "expert"}
    points = json.loads((tmp_path / "t.json").read_text())
    assert set(points[0]) >= {"checkpoint", "general", "domain", "gain", "retention", "on_front"}
    assert (tmp_path / "t.md").read_text().startswith("| checkpoint |")
    assert "<svg" in (tmp_path / "t.svg").read_text()


async def test_invalid_export_path_is_rejected_while_typing(
    filled: Paths, app_on: AppOn, shown: Shown, press: Press
) -> None:
    app = app_on(filled)
    async with app.run_test(size=(80, 24)) as pilot:
        await press(pilot, "2", "e")
        app.screen.query_one("#line", Input).value = "/no/such/folder/x.csv"
        await press(pilot, "enter")
        assert "no such folder: /no/such/folder" in shown(app)
        app.screen.query_one("#line", Input).value = "x.pdf"
        await pilot.pause()
        assert "use one of the extensions .csv, .json, .md" in shown(app)


def test_merge_curves_connect_merges_with_their_parents() -> None:
    def merge_checkpoint(name: str, alpha: float) -> Checkpoint:
        return Checkpoint(
            id=name,
            name=name,
            method="merge",
            path="",
            created=0,
            parents={"reference": "r", "expert": "e"},
            info={"alpha": alpha},
        )

    parents = [Checkpoint(id=i, name=f"{i}-name", method="sft", path="", created=0) for i in "re"]
    lines = merge_curves([merge_checkpoint("m2", 0.7), *parents, merge_checkpoint("m1", 0.2)])
    assert lines == [["r-name", "m1", "m2", "e-name"]]


async def test_an_unfinished_checkpoint_is_compared_on_what_it_answered(
    filled: Paths, app_on: AppOn, press: Press
) -> None:
    """Its three domain answers are right; on those the expert and the reference did well, too."""
    with Store(filled.store) as store:
        checkpoint = store.checkpoint("sft")
        assert checkpoint is not None
        own = store.judgments(checkpoint.id, "shop")
        items = sorted({judgment.item for judgment in own})
        store.db.execute(
            f"DELETE FROM judgments WHERE checkpoint = ? AND bench = 'shop' AND item NOT IN "
            f"({', '.join('?' * 3)})",
            [checkpoint.id, *items[:3]],
        )
        store.db.conn.commit()
    app = app_on(filled)
    async with app.run_test(size=LARGE) as pilot:
        await press(pilot, "3")
        screen = app.screen
        assert isinstance(screen, TradeOffScreen) and screen.view is not None
        await press(pilot, "r", "slash", "k", "d", "enter")
        await press(pilot, "E", "slash", *"expert", "enter")
        await press(pilot)
        raw = {p.point.checkpoint: p for p in screen.view.points}
        shown = {p.point.checkpoint: p for p in screen.points}
        assert raw["sft"].gain != shown["sft"].gain
        assert raw["kd"] == shown["kd"] and raw["expert"] == shown["expert"]
        row = next(row for row in screen.listing().all_rows if row["id"] == "sft")
        assert row["gain"] == shown["sft"].gain
