"""Runs in groups, and the leaderboard's columns in the user's order; both are kept."""

from __future__ import annotations

from typing import Any

import pytest
import yaml

from kdharness.harness.experiments.expand import find_experiment, keep_copy, load_sweep
from kdharness.harness.paths import Paths
from kdharness.harness.store import Store
from kdharness.tui.screens.leaderboard import LeaderboardScreen
from kdharness.tui.screens.run import RunScreen
from kdharness.tui.settings import read_settings
from kdharness.tui.viewmodels.leaderboard import Figure, arranged
from kdharness.tui.viewmodels.run_groups import group_fields, groups_by
from kdharness.tui.widgets.grouped import GroupedListing
from support.app import LARGE, SMALL, AppOn, Press, Shown
from support.tui_home import add_past_run


def runs_list(app: Any) -> GroupedListing:
    listing = app.screen.query_one("#list")
    assert isinstance(listing, GroupedListing)
    return listing


@pytest.mark.slow
async def test_runs_are_grouped_by_experiment_folded_counted_and_kept(
    experiment_home: Paths, app_on: AppOn, press: Press, shown: Shown
) -> None:
    app = app_on(experiment_home)
    async with app.run_test(size=LARGE) as pilot:
        await press(pilot, "G", "down", "enter")
        await press(pilot)
        listing = runs_list(app)
        headings = [row["heading"] for row in listing.rows if "heading" in row]
        assert headings == ["not in an experiment", "small"]
        assert "▾ small  4:" in shown(app)
        count = len(listing.all_rows)
        assert f"run {count}" in shown(app)
        listing.move_to([row["id"] for row in listing.rows].index("group:small"))
        await press(pilot, "enter")
        assert "▸ small" in shown(app) and f"run {count}" in shown(app)
        assert not any(str(row["id"]).startswith("small-") for row in listing.rows)
        await press(pilot, "p", "X", "v", "space")  # a heading is no run
        assert app.screen.place == "runs"  # type: ignore[attr-defined]
        await press(pilot, "enter", "down", "enter")
        assert isinstance(app.screen, RunScreen)
    assert read_settings(experiment_home).group == "experiment"
    app = app_on(experiment_home)
    async with app.run_test(size=SMALL) as pilot:
        await press(pilot)
        await press(pilot)
        assert "▾ small" in shown(app)
        await press(pilot, "slash", *"small", "enter")
        rows = runs_list(app).rows
        assert [row["heading"] for row in rows if "heading" in row] == ["small"]
        assert f"run 4 of {count}" in shown(app)


@pytest.mark.slow
async def test_groups_stay_folded_when_runs_are_added(
    experiment_home: Paths, app_on: AppOn, press: Press, shown: Shown
) -> None:
    experiment_home.settings.write_text("group: experiment\n", "utf-8")
    app = app_on(experiment_home)
    async with app.run_test(size=LARGE) as pilot:
        await press(pilot)
        listing = runs_list(app)
        listing.move_to([row["id"] for row in listing.rows].index("group:small"))
        await press(pilot, "enter")
        with Store(experiment_home.store) as other:
            add_past_run(other, "small-kd-s3", "kd", 1)
        app.follow()
        await press(pilot)
        assert "▸ small  5:" in shown(app) and "▾ not in an experiment" in shown(app)
        await press(pilot, "G", "down", "enter")  # by status: other groups, all open
        await press(pilot)
        assert "▾ finished" in shown(app) and not listing.folded


@pytest.mark.slow
async def test_a_config_field_groups_runs_and_the_pane_draws_a_group(
    filled: Paths, app_on: AppOn, press: Press, shown: Shown
) -> None:
    filled.settings.write_text("group: student.model\n", "utf-8")
    app = app_on(filled)
    async with app.run_test(size=LARGE) as pilot:
        await press(pilot)
        await press(pilot)
        assert "▾ model kd  2:" in shown(app) and "▾ model not set" in shown(app)
        listing = runs_list(app)
        listing.move_to([row["id"] for row in listing.rows].index("group:model kd"))
        await pilot.pause(0.15)
        await press(pilot)
        text = shown(app)
        assert "model kd  2 runs" in text and "A dae" in text and "B expert" in text
        assert not [row for row in app.screen.export_rows()[1] if "heading" in row]  # type: ignore[attr-defined]


def test_what_groups_runs_is_what_tells_them_apart(filled: Paths) -> None:
    with Store(filled.store) as store:
        runs = store.runs()
    fields = [row["id"] for row in group_fields(runs)]
    assert fields[:3] == ["experiment", "status", "kind"] and "student.model" in fields
    groups = groups_by(runs, "student.model", filled)
    assert groups["dae"] == "model kd" and groups["sft"] == "model not set"
    assert groups_by(runs, "kind", filled)["dae"] == "dae"
    assert set(groups_by(runs, "no.such.field", filled).values()) == {"field not set"}


def test_runs_are_grouped_by_the_experiments_that_name_them(filled: Paths) -> None:
    """An experiment with `runs` gives its runs another name than its own, and may share them."""
    files: dict[str, dict[str, Any]] = {
        "mini": {"runs": "shared", "steps": {"kd": {}, "sft": {}}},
        "maxi": {"runs": "shared", "steps": {"kd": {}}},
        "plain": {"steps": {"kd": {}}},
        "plain-kd": {"steps": {"x": {}}},
        "other": {"runs": "shared", "steps": {"kd-plain": {}}},
    }
    filled.sweeps.mkdir()
    for name, values in files.items():
        (filled.sweeps / f"{name}.yaml").write_text(yaml.safe_dump({"name": name, **values}))
    lost = {"name": "lost", "runs": "far", "steps": {"kd": {}}}
    names = ["shared-kd-s1", "shared-sft-s1", "plain-kd", "far-kd", "mini-kd-s1", "shared-kdx"]
    names += ["shared-kd-plain-s1", "plain-kd-x-s1"]
    with Store(filled.store) as store:
        for name in names:
            add_past_run(store, name, "kd", 1)
        add_past_run(store, "sweep-lost", "sweep", 1, config=lost)
        groups = groups_by(store.runs(), "experiment", filled)
    assert groups["shared-kd-s1"] == "maxi, mini" and groups["shared-sft-s1"] == "mini"
    assert groups["plain-kd"] == "plain"
    # One name may begin like another's.
    assert groups["shared-kd-plain-s1"] == "other" and groups["plain-kd-x-s1"] == "plain-kd"
    assert groups["far-kd"] == groups["sweep-lost"] == "lost"  # its file is gone
    for name in ("mini-kd-s1", "shared-kdx", "kd"):
        assert groups[name] == "not in an experiment"


def test_runs_of_shipped_experiments_are_grouped_by_those_that_plan_them(filled: Paths) -> None:
    """They share beginnings of names: `second-closeness` is one of `second-closeness-attention`."""
    filled.sweeps.mkdir()
    planned: dict[str, set[str]] = {}
    for name in ("kd-sft", "attention", "frontier"):
        file = find_experiment(name)
        keep_copy(filled, file, load_sweep(file)[0])
        for run in load_sweep(file)[1]:
            planned.setdefault(run.name, set()).add(name)
    with Store(filled.store) as store:
        for name in planned:
            add_past_run(store, name, "kd", 1)
        groups = groups_by(store.runs(), "experiment", filled)
    assert {name: groups[name] for name in planned} == {
        name: ", ".join(sorted(of)) for name, of in planned.items()
    }
    assert any(len(of) > 1 for of in planned.values())


@pytest.mark.slow
async def test_columns_move_hide_come_back_and_are_kept(
    filled: Paths, app_on: AppOn, press: Press, shown: Shown, notified: Shown
) -> None:
    app = app_on(filled)
    async with app.run_test(size=LARGE) as pilot:
        await press(pilot, "2")
        screen = app.screen
        assert isinstance(screen, LeaderboardScreen)
        keys = [figure.key for figure in screen.figures]
        assert "column 1 of 5" in shown(app)
        await press(pilot, "greater_than_sign")
        assert [f.key for f in screen.figures] == [keys[1], keys[0], *keys[2:]]
        assert screen.figure is not None and screen.figure.key == keys[0]
        await press(pilot, "minus")
        assert keys[0] not in [f.key for f in screen.figures]
        assert "1 hidden (C)" in shown(app) and "C brings it back" in notified(app)
        await press(pilot, "less_than_sign", "minus", "minus", "minus", "minus")
        assert len(screen.figures) == 1  # the last one stays
    stored = yaml.safe_load(filled.settings.read_text("utf-8"))["columns"]
    assert len(stored["hidden"]) == 4
    app = app_on(filled)
    async with app.run_test(size=SMALL) as pilot:
        await press(pilot, "2")
        screen = app.screen
        assert isinstance(screen, LeaderboardScreen) and len(screen.figures) == 1
        await press(pilot, "C", "end", "space", "enter")
        assert len(screen.figures) == 2
    assert len(read_settings(filled).hidden) == 3


def test_new_columns_follow_and_a_board_is_never_empty() -> None:
    figures = [Figure("b", name, "exact") for name in "xyz"]
    keys = [figure.key for figure in figures]
    assert arranged(figures, [keys[2]], []) == [figures[2], figures[0], figures[1]]
    assert arranged(figures, ["gone:m", keys[1]], [keys[0]]) == [figures[1], figures[2]]
    assert arranged(figures, [], keys) == figures


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("columns: [a]", "columns takes first and hidden"),
        ("columns: {first: a}", "columns takes first and hidden"),
        ("columns: {other: []}", "columns takes first and hidden"),
        ("columns: {hidden: [1]}", "columns takes first and hidden"),
        ("group: [a]", "group must be experiment"),
    ],
)
def test_invalid_arrangements_are_told_and_left_out(home: Paths, text: str, told: str) -> None:
    home.home.mkdir()
    home.settings.write_text(f"{text}\ntheme: light\n", "utf-8")
    found = read_settings(home)
    assert (found.columns, found.hidden, found.group, found.theme) == ((), (), "", "light")
    assert told in found.problem
