"""The experiments screen by keyboard: files, plans, inline errors, start, stop, live states."""

from __future__ import annotations

import threading
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import yaml
from textual.widgets import Input

from kdharness.harness.errors import ConfigError
from kdharness.harness.paths import Paths
from kdharness.harness.store import Store
from kdharness.harness.types import Request
from kdharness.tui.app import HarnessApp
from kdharness.tui.screens import experiments
from kdharness.tui.screens.dialogs import Confirm
from kdharness.tui.screens.experiments import ExperimentsScreen
from kdharness.tui.screens.run import RunScreen
from kdharness.tui.widgets.table import Listing
from support.app import LARGE, SMALL, AppOn, Press, Shown, help_page

pytestmark = pytest.mark.slow

HOSTILE = "[bold]x[/] [@click=app.leave]y[/] \x1b]52;c;aGk=\x07 \u202e\u2066z"


def experiments_screen(app: HarnessApp) -> ExperimentsScreen:
    assert isinstance(app.screen, ExperimentsScreen)
    return app.screen


def fix_errors(home: Paths) -> Path:
    """Remove the errors from the invalid experiment file."""
    file = home.home / "sweeps" / "wrong.yaml"
    text = file.read_text().replace("epochs: -1", "epochs: 1").replace("learning_rat:", "seed_:")
    file.write_text("\n".join(line for line in text.splitlines() if "seed_" not in line) + "\n")
    return file


# ---------------------------------------------------------------- display


@pytest.mark.parametrize("size", [SMALL, LARGE], ids=["80x24", "120x40"])
async def test_experiments_and_their_planned_runs_are_listed(
    experiment_home: Paths, app_on: AppOn, shown: Shown, press: Press, size: tuple[int, int]
) -> None:
    app = app_on(experiment_home)
    async with app.run_test(size=size) as pilot:
        await press(pilot)
        assert "w Experiments" in shown(app)
        await press(pilot, "w", "end")
        text = shown(app)
        assert "baselines" in text and "24 runs: 24 to do" in text and "· to do" in text
        assert "s Start" in text and "▶ running 1/6" in text
        await press(pilot, "home")  # the home's own are the first
        text = shown(app)
        assert "Does the expert forget?" in text
        assert "6 runs: 1 finished, 1 running, 1 failed, 3 to do" in text
        assert "▶ running" in text and "out of memory" in text and "1.25" in text
        await press(pilot, "enter", "end")
        assert "needs small-kd-s2, small-expert-s2" in " ".join(shown(app).split())
        await press(pilot, "y")
        assert "question: Does the expert forget?" in shown(app)
        await press(pilot, "y", "escape", "escape")
        assert app.screen.place == "runs"  # type: ignore[attr-defined]


@pytest.mark.parametrize("size", [SMALL, LARGE], ids=["80x24", "120x40"])
async def test_claims_without_scores_are_shown_as_undecided(
    experiment_home: Paths,
    app_on: AppOn,
    shown: Shown,
    notified: Shown,
    press: Press,
    size: tuple[int, int],
) -> None:
    file = experiment_home.home / "sweeps" / "small.yaml"
    values = yaml.safe_load(file.read_text())
    values["claims"] = [
        {
            "text": f"the expert beats {HOSTILE}",
            "metric": "shop:score",
            "of": "expert",
            "than": "kd",
        },
        {"text": "nothing is lost", "metric": "mt-bench:score", "of": "kd", "than": "kd"},
    ]
    file.write_text(yaml.safe_dump(values, sort_keys=False))
    app = app_on(experiment_home)
    async with app.run_test(size=size) as pilot:
        await press(pilot, "w", "end", "c")
        assert "this experiment has no claims" in notified(app)
        await press(pilot, "home", "c")
        text = shown(app)
        assert "– no result: the expert beats [bold]x[/]" in text and "\x1b" not in text
        assert "small-expert-s2 does not exist yet" in " ".join(text.split())
        await press(pilot, "y")
        assert "question: Does the expert forget?" in shown(app)
        await press(pilot, "c")
        assert "no result" in shown(app)
        await press(pilot, "c")
        assert "6 runs" in shown(app) and "no result" not in shown(app)


async def test_store_updates_are_shown_and_unrelated_ones_do_not_repaint(
    experiment_home: Paths, app_on: AppOn, shown: Shown, press: Press, settled: Any
) -> None:
    app = app_on(experiment_home)
    async with app.run_test(size=LARGE) as pilot:
        await press(pilot, "w")
        with Store(experiment_home.store) as other:
            other.update_run("small-kd-s2", step=45, loss=0.625)
            other.update_run("sweep-small", step=2)
        app.follow()
        await settled(pilot)
        text = shown(app)
        assert "0.625" in text and " 90% " in text and "running 2/6" in text
        painted: list[str] = []
        for widget in app.screen.query("Listing, Static, TextView"):
            widget.refresh = lambda *_, w=widget, **__: painted.append(w.id) or w  # type: ignore
        with Store(experiment_home.store) as other:
            other.add_event("kd", "note", "of no concern")
        app.follow()
        await settled(pilot)
        app.follow()
        await settled(pilot)
        assert painted == []


async def test_dead_process_is_shown_as_interrupted(
    experiment_home: Paths,
    app_on: AppOn,
    shown: Shown,
    press: Press,
    settled: Any,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    app = app_on(experiment_home)
    async with app.run_test(size=LARGE) as pilot:
        await press(pilot, "w")
        monkeypatch.setattr("kdharness.harness.runs.status.process_started", lambda _: None)
        app.follow()
        await settled(pilot)
        assert "! interrupted" in shown(app) and "interrupted 1/6" in shown(app)


async def test_errors_are_shown_at_their_lines_until_fixed(
    experiment_home: Paths, app_on: AppOn, shown: Shown, notified: Shown, press: Press
) -> None:
    app = app_on(experiment_home)
    async with app.run_test(size=SMALL) as pilot:
        await press(pilot, "w", "down")
        lines = [line.strip() for line in shown(app).splitlines()]
        index = next(n for n, line in enumerate(lines) if "epochs: -1" in line)
        assert lines[index].startswith("10 ✗") and "greater than" in lines[index + 1]
        index = next(n for n, line in enumerate(lines) if "learning_rat:" in line)
        assert "did you mean learning_rate?" in lines[index + 1]
        assert "cannot start: fix the fields" in shown(app)
        await press(pilot, "s")
        assert "fix the marked fields first" in notified(app) and app.screen is experiments_screen(
            app
        )
        fix_errors(experiment_home)
        await press(pilot, "r")
        assert "1 run: 1 to do" in shown(app) and "wrong-kd" in shown(app)


async def test_experiment_file_is_opened_by_path(
    experiment_home: Paths, app_on: AppOn, shown: Shown, press: Press, tmp_path: Path
) -> None:
    file = tmp_path / "mine.yaml"
    kept = yaml.safe_load((experiment_home.home / "sweeps" / "small.yaml").read_text())
    file.write_text(yaml.safe_dump({**kept, "name": "mine", "vary": {}}))
    app = app_on(experiment_home)
    async with app.run_test(size=LARGE) as pilot:
        await press(pilot, "w", "o", "slash")
        app.screen.query_one("#path", Input).value = str(file)
        await press(pilot, "enter")
        assert "mine-expert" in shown(app) and "3 runs: 3 to do" in shown(app)
        assert experiments_screen(app).names().row["id"] == str(file)  # type: ignore[index]
        await press(pilot, "o", "slash")
        app.screen.query_one("#path", Input).value = str(tmp_path / "gone.yaml")
        await press(pilot, "enter")
        assert "cannot read the experiment" in shown(app)


@pytest.mark.parametrize("size", [SMALL, LARGE], ids=["80x24", "120x40"])
async def test_hostile_experiment_files_are_shown_as_text(
    experiment_home: Paths, app_on: AppOn, shown: Shown, press: Press, size: tuple[int, int]
) -> None:
    folder = experiment_home.home / "sweeps"
    kept = yaml.safe_load((folder / "small.yaml").read_text())
    kept["steps"]["kd"]["teacher"] = HOSTILE
    texts = {
        "a": yaml.safe_dump(
            {**kept, "name": "a", "question": HOSTILE, "vary": {"kd.teacher": [HOSTILE, "x"]}}
        ),
        "b": yaml.safe_dump({"name": HOSTILE, "steps": {HOSTILE: HOSTILE}}),
        "c": f"name: c\nsteps: [{HOSTILE!r}",
        "d": "m" * 900_000,
        "e": "&a [*a, *a]",
        "f": "steps: &a {kd: *a}",
        "g": yaml.safe_dump({"steps": {"kd": {"needs": 3}}}),
        "h": "steps: {kd: {method: kd}}\nvary: {seed: [2026-01-01]}",
        "i": "",
    }
    for name, text in texts.items():
        (folder / f"{name}.yaml").write_text(text, "utf-8")
    with Store(experiment_home.store) as store:
        store.update_run("sweep-small", error=HOSTILE, info={"at_work": HOSTILE})
        store.update_run("small-kd-s2", error=HOSTILE, info={"stage": HOSTILE}, max_steps=0)
    app = app_on(experiment_home)
    async with app.run_test(size=size) as pilot:
        await press(pilot, "w")
        for _ in range(12):
            await press(pilot, "down")
            assert not set(shown(app)) & set("\x1b\x07\u202e\u2066\x00"), shown(app)
            await press(pilot, "y", "y", "enter", "end", "escape")
        app.open_run("sweep-small")
        await press(pilot, "g")
        assert not set(shown(app)) & set("\x1b\x07\u202e\u2066\x00")
    assert app.return_code in (None, 0)


async def test_experiments_screen_works_without_colour(
    experiment_home: Paths,
    app_on: AppOn,
    shown: Shown,
    press: Press,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("NO_COLOR", "1")
    app = app_on(experiment_home)
    async with app.run_test(size=SMALL) as pilot:
        await press(pilot, "w", "enter", "down", "escape", "down")
        assert "✗" in shown(app)


# ---------------------------------------------------------------- actions


async def test_start_asks_for_confirmation_with_run_counts(
    experiment_home: Paths,
    app_on: AppOn,
    shown: Shown,
    notified: Shown,
    press: Press,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    started: list[Path] = []
    threads: list[Any] = []

    def start(paths: Paths, file: Path) -> Any:
        started.append(file)
        threads.append(threading.current_thread())
        return SimpleNamespace(id="sweep-baselines")

    monkeypatch.setattr("kdharness.harness.experiments.detached.start_sweep", start)
    app = app_on(experiment_home)
    async with app.run_test(size=SMALL) as pilot:
        await press(pilot, "w", "end", "s")
        assert isinstance(app.screen, Confirm)
        assert "24 runs: 24 to start" in shown(app) and "in a separate process" in shown(app)
        await press(pilot, "n")
        assert started == []
        await press(pilot, "s", "y")
        assert [file.name for file in started] == ["baselines.yaml"]
        assert threads[0] is not threading.main_thread()
        assert "sweep-baselines has started" in notified(app)
        # A running experiment is not started again; a stopped one is resumed.
        await press(pilot, "home", "s")
        assert "small is already running" in notified(app) and len(started) == 1
        with Store(experiment_home.store) as store:
            store.update_run("sweep-small", status="stopped")
            store.update_run("small-kd-s2", status="stopped")
        app.follow()
        await press(pilot, "s")
        assert "3 to start, 2 to resume, 1 already finished" in shown(app)


async def test_start_errors_are_notified(
    experiment_home: Paths,
    app_on: AppOn,
    notified: Shown,
    press: Press,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def start(paths: Paths, file: Path) -> Any:
        raise ConfigError("the file was changed")

    monkeypatch.setattr("kdharness.harness.experiments.detached.start_sweep", start)
    app = app_on(experiment_home)
    async with app.run_test(size=SMALL) as pilot:
        await press(pilot, "w", "end", "s", "y")
        assert "the file was changed" in notified(app)


async def test_stop_and_pause_address_the_experiment_run(
    experiment_home: Paths, app_on: AppOn, shown: Shown, notified: Shown, press: Press
) -> None:
    app = app_on(experiment_home)
    async with app.run_test(size=SMALL) as pilot:
        await press(pilot, "w", "end", "X")
        assert "no run of this experiment is running" in notified(app)
        await press(pilot, "p", "g", "home", "p", "X")
        assert "Stop sweep-small?" in shown(app) and "Current runs save" in shown(app)
        await press(pilot, "y")
        with Store(experiment_home.store) as store:
            assert store.take_requests("sweep-small") == [Request.PAUSE, Request.STOP]
            # If run by a command in a terminal, the experiment has no run entry.
            store.update_run("sweep-small", status="stopped")
        app.follow()
        await press(pilot, "X")
        assert "Stop small-kd-s2?" in shown(app)


async def test_enter_opens_an_existing_run(
    experiment_home: Paths, app_on: AppOn, notified: Shown, press: Press
) -> None:
    app = app_on(experiment_home)
    async with app.run_test(size=LARGE) as pilot:
        await press(pilot, "w", "enter", "enter")
        assert isinstance(app.screen, RunScreen) and app.screen.run_id == "small-kd-s1"
        await press(pilot, "escape", "end", "enter")
        assert "small-scores-s2 has not been started" in notified(app)
        await press(pilot, "g")
        assert isinstance(app.screen, RunScreen) and app.screen.run_id == "sweep-small"


async def test_experiment_run_in_the_runs_list(
    experiment_home: Paths, app_on: AppOn, shown: Shown, press: Press
) -> None:
    app = app_on(experiment_home)
    async with app.run_test(size=LARGE) as pilot:
        await press(pilot)
        assert "sweep-small" in shown(app)
        listing = app.screen.query_one("#list", Listing)
        listing.move_to([row["id"] for row in listing.rows].index("sweep-small"))
        await press(pilot)
        assert "expert, kd, scores" in shown(app)
        assert "run 1 of 6" in shown(app) and "small-kd-s2 ·" in shown(app)
        await press(pilot, "enter")
        assert isinstance(app.screen, RunScreen) and app.screen.tab == "log"
        assert "now small-kd-s2" in shown(app)
        await press(pilot, "c", "f", "i", "n")
        assert experiments_screen(app).chosen == experiment_home.home / "sweeps" / "small.yaml"
        app.choose_runs(lambda _: None)
        await press(pilot)
        rows = [row["id"] for row in app.screen.query_one("#choices", Listing).rows]
        assert "sweep-small" not in rows and {"small-kd-s1", "small-kd-s2"} <= set(rows)


async def test_palette_and_help_list_experiments(
    experiment_home: Paths, app_on: AppOn, shown: Shown, press: Press
) -> None:
    app = app_on(experiment_home)
    async with app.run_test(size=LARGE) as pilot:
        await press(pilot)
        for keys in ([], ["2"]):
            await press(pilot, *keys)
            titles = [command.title for command in app.get_system_commands(app.screen)]
            assert titles.count("Experiments") == 1
        await press(pilot, "1", "w", "f1")
        assert "kdharness sweep" in shown(app) and "experiments.start: s" in help_page(app)


async def test_experiment_files_are_read_off_the_main_thread(
    experiment_home: Paths, app_on: AppOn, press: Press, monkeypatch: pytest.MonkeyPatch
) -> None:
    on_main_thread: list[bool] = []
    original = experiments.load

    def load(*args: Any) -> Any:
        on_main_thread.append(threading.current_thread() is threading.main_thread())
        return original(*args)

    monkeypatch.setattr(experiments, "load", load)
    app = app_on(experiment_home)
    async with app.run_test(size=SMALL) as pilot:
        await press(pilot, "w", "down", "r")
    assert on_main_thread and not any(on_main_thread)
