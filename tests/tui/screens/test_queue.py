"""The queue by keyboard: what runs, what follows, and what waits."""

from __future__ import annotations

from typing import Any

import pytest

from kdharness.harness.config.files import parse_config
from kdharness.harness.errors import RunError
from kdharness.harness.paths import Paths
from kdharness.harness.runs import queue
from kdharness.harness.store import Store
from kdharness.tui.app import HarnessApp
from kdharness.tui.screens.evaluate import EvaluateScreen
from kdharness.tui.screens.queue import QueueScreen
from kdharness.tui.widgets.table import Listing
from support.app import LARGE, SMALL, AppOn, Press, Shown
from support.tui_home import add_past_run

EVAL = {"method": "eval", "checkpoints": ["dae"], "benches": ["shop"]}


@pytest.fixture(autouse=True)
def kept(monkeypatch: pytest.MonkeyPatch) -> list[Paths]:
    """The homes whose queue would be worked off; no process is started."""
    homes: list[Paths] = []
    monkeypatch.setattr(queue, "keep", homes.append)
    return homes


def rows(app: HarnessApp) -> list[tuple[str, str]]:
    """Return (run, state) of the list."""
    return [(r["id"], str(r.get("state"))) for r in app.screen.query_one("#list", Listing).rows]


def move_to(app: HarnessApp, name: str) -> None:
    """Move the cursor to a run."""
    app.screen.query_one("#list", Listing).move_to([name for name, _ in rows(app)].index(name))


async def test_waiting_runs_are_moved_taken_out_and_put_back(
    filled: Paths, app_on: AppOn, press: Press, shown: Shown, kept: list[Paths]
) -> None:
    for name in ("one", "two"):
        queue.add(filled, parse_config(EVAL), name)
    app = app_on(filled)
    async with app.run_test(size=SMALL) as pilot:
        await press(pilot, "Q")
        assert kept == [filled]  # the app goes on with what waits
        assert rows(app) == [("dae", "running"), ("one", "queued"), ("two", "queued")]
        assert "1 running, 0 next in an experiment, 2 queued" in shown(app)
        move_to(app, "two")
        await press(pilot, "K")
        assert [name for name, _ in rows(app)] == ["dae", "two", "one"]
        await press(pilot, "J")
        assert [name for name, _ in rows(app)] == ["dae", "one", "two"]
        await press(pilot, "u")
        assert [name for name, _ in rows(app)] == ["dae", "one"]
        await press(pilot, "a", "slash", *"two", "enter", "enter")
        app.follow()
        await press(pilot)
        assert [name for name, _ in rows(app)] == ["dae", "one", "two"] and len(kept) == 2
        move_to(app, "dae")
        await press(pilot, "u", "J", "K")
        assert [name for name, _ in rows(app)] == ["dae", "one", "two"]
        move_to(app, "two")
        await press(pilot, "d", "y")
        assert app.store.run("two") is None and rows(app)[-1] == ("one", "queued")


async def test_marked_runs_wait_in_the_order_of_their_marks(
    filled: Paths, app_on: AppOn, press: Press, notified: Shown, kept: list[Paths]
) -> None:
    """Each was put there by a thread of its own: some shared a place."""
    names = [f"z{n}" for n in range(6)]
    with Store(filled.store) as store:
        for name in names:
            add_past_run(store, name, "kd", 9, status="stopped")
    app = app_on(filled)
    async with app.run_test(size=LARGE) as pilot:
        await press(pilot, "Q")
        app.enqueue(["z5", "dae", "z4", "z3", "z2", "z1", "z0"])
        await press(pilot)
        assert "dae is running: only what can be resumed waits" in notified(app)
        with Store(filled.store) as store:
            found = queue.queued(store, filled)
        assert [run.id for run in found] == names[::-1]
        assert [run.info["queued"][0] for run in found] == [1, 2, 3, 4, 5, 6] and len(kept) == 2


async def test_what_follows_in_an_experiment_stands_between(
    experiment_home: Paths, app_on: AppOn, press: Press
) -> None:
    queue.add(experiment_home, parse_config(EVAL), "scores-later")
    app = app_on(experiment_home)
    async with app.run_test(size=LARGE) as pilot:
        await press(pilot, "Q")
        found = rows(app)
        assert {name for name, state in found if state == "running"} >= {"small-kd-s2"}
        following = [name for name, state in found if state == "next in sweep-small"]
        assert "small-expert-s2" in following and "small-kd-s1" not in following
        assert found[-1] == ("scores-later", "queued")


@pytest.mark.slow
@pytest.mark.parametrize("keys", [("v",), ("enter", "v")], ids=["runs", "run"])
async def test_a_form_is_queued_behind_what_runs_although_its_plan_has_an_error(
    filled: Paths,
    app_on: AppOn,
    press: Press,
    shown: Shown,
    started: list[Any],
    kept: list[Paths],
    monkeypatch: pytest.MonkeyPatch,
    keys: tuple[str, ...],
) -> None:
    """The checkpoint that it needs is what runs now."""

    def plan(command: list[str], text: str = "") -> Any:
        raise RunError("no checkpoint named dae")

    monkeypatch.setattr("kdharness.tui.viewmodels.estimates.run_json", plan)
    app = app_on(filled)
    async with app.run_test(size=LARGE) as pilot:
        await press(pilot)
        move_to(app, "dae")
        await press(pilot, *keys)
        assert isinstance(app.screen, EvaluateScreen)
        assert app.screen.values["checkpoints"] == ["dae"]
        await press(pilot, "s")
        assert " b  behind what runs" in shown(app)
        await press(pilot, "b")
        assert isinstance(app.screen, QueueScreen) and started == []
        assert rows(app)[-1][1] == "queued" and len(kept) == 2
        with Store(filled.store) as store:
            assert [run.method for run in queue.queued(store, filled)] == ["eval"]
            store.update_run("dae", status="finished")
        app.follow()
        await press(pilot, "6", "s")
        assert "behind what runs" not in shown(app)
        await press(pilot, "b", "n")
        assert len(kept) == 2
