"""Experiments by keyboard: files, plans, mistakes in place, start and stop, and live states."""

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
from support.app import LARGE, SMALL, AppOn, Press, Shown

HOSTILE = "[bold]x[/] [@click=app.leave]y[/] \x1b]52;c;aGk=\x07 \u202e\u2066z"


def on_screen(app: HarnessApp) -> ExperimentsScreen:
    assert isinstance(app.screen, ExperimentsScreen)
    return app.screen


def mend(home: Paths) -> Path:
    """Take the mistakes out of the file that has some."""
    file = home.home / "sweeps" / "wrong.yaml"
    text = file.read_text().replace("epochs: -1", "epochs: 1").replace("learning_rat:", "seed_:")
    file.write_text("\n".join(line for line in text.splitlines() if "seed_" not in line) + "\n")
    return file


# ---------------------------------------------------------------- what is shown


@pytest.mark.parametrize("size", [SMALL, LARGE], ids=["80x24", "120x40"])
async def test_it_lists_experiments_and_the_runs_they_come_to(
    experimenting: Paths, app_on: AppOn, shown: Shown, press: Press, size: tuple[int, int]
) -> None:
    app = app_on(experimenting)
    async with app.run_test(size=size) as pilot:
        await press(pilot)
        assert "w Experiments" in shown(app)
        await press(pilot, "w")
        text = shown(app)
        assert "baselines" in text and "24 runs: 24 to do" in text and "· to do" in text
        assert "s Start" in text and "▶ running 1/6" in text
        await press(pilot, "down")
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
async def test_claims_are_judged_as_far_as_there_are_figures(
    experimenting: Paths,
    app_on: AppOn,
    shown: Shown,
    notified: Shown,
    press: Press,
    size: tuple[int, int],
) -> None:
    file = experimenting.home / "sweeps" / "small.yaml"
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
    app = app_on(experimenting)
    async with app.run_test(size=size) as pilot:
        await press(pilot, "w", "c")
        assert "this experiment has no claims" in notified(app)
        await press(pilot, "down", "c")
        text = shown(app)
        assert "? can't tell: the expert beats [bold]x[/]" in text and "\x1b" not in text
        assert "small-expert-s2 does not exist yet" in " ".join(text.split())
        await press(pilot, "y")
        assert "question: Does the expert forget?" in shown(app)
        await press(pilot, "c")
        assert "can't tell" in shown(app)
        await press(pilot, "c")
        assert "6 runs" in shown(app) and "can't tell" not in shown(app)


async def test_it_follows_the_store_and_repaints_nothing_else(
    experimenting: Paths, app_on: AppOn, shown: Shown, press: Press, settled: Any
) -> None:
    app = app_on(experimenting)
    async with app.run_test(size=LARGE) as pilot:
        await press(pilot, "w", "down")
        with Store(experimenting.store) as other:
            other.update_run("small-kd-s2", step=45, loss=0.625)
            other.update_run("sweep-small", step=2)
        app.follow()
        await settled(pilot)
        text = shown(app)
        assert "0.625" in text and " 90% " in text and "running 2/6" in text
        painted: list[str] = []
        for widget in app.screen.query("Listing, Static, TextView"):
            widget.refresh = lambda *_, w=widget, **__: painted.append(w.id) or w  # type: ignore
        with Store(experimenting.store) as other:
            other.add_event("kd", "note", "of no concern")
        app.follow()
        await settled(pilot)
        app.follow()
        await settled(pilot)
        assert painted == []


async def test_a_process_that_died_without_a_word_is_noticed(
    experimenting: Paths,
    app_on: AppOn,
    shown: Shown,
    press: Press,
    settled: Any,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    app = app_on(experimenting)
    async with app.run_test(size=LARGE) as pilot:
        await press(pilot, "w", "down")
        monkeypatch.setattr("kdharness.harness.runs.status.process_started", lambda _: None)
        app.follow()
        await settled(pilot)
        assert "! interrupted" in shown(app) and "interrupted 1/6" in shown(app)


async def test_mistakes_stand_at_their_lines_until_they_are_mended(
    experimenting: Paths, app_on: AppOn, shown: Shown, notified: Shown, press: Press
) -> None:
    app = app_on(experimenting)
    async with app.run_test(size=SMALL) as pilot:
        await press(pilot, "w", "end")
        lines = [line.strip() for line in shown(app).splitlines()]
        place = next(n for n, line in enumerate(lines) if "epochs: -1" in line)
        assert lines[place].startswith("10 ✗") and "greater than" in lines[place + 1]
        place = next(n for n, line in enumerate(lines) if "learning_rat:" in line)
        assert "did you mean learning_rate?" in lines[place + 1]
        assert "cannot start: fix the fields" in shown(app)
        await press(pilot, "s")
        assert "fix the marked fields first" in notified(app) and app.screen is on_screen(app)
        mend(experimenting)
        await press(pilot, "r")
        assert "1 run: 1 to do" in shown(app) and "wrong-kd" in shown(app)


async def test_a_file_is_opened_by_its_path(
    experimenting: Paths, app_on: AppOn, shown: Shown, press: Press, tmp_path: Path
) -> None:
    file = tmp_path / "mine.yaml"
    kept = yaml.safe_load((experimenting.home / "sweeps" / "small.yaml").read_text())
    file.write_text(yaml.safe_dump({**kept, "name": "mine", "vary": {}}))
    app = app_on(experimenting)
    async with app.run_test(size=LARGE) as pilot:
        await press(pilot, "w", "o", "slash")
        app.screen.query_one("#path", Input).value = str(file)
        await press(pilot, "enter")
        assert "mine-expert" in shown(app) and "3 runs: 3 to do" in shown(app)
        assert on_screen(app).names().row["id"] == str(file)  # type: ignore[index]
        await press(pilot, "o", "slash")
        app.screen.query_one("#path", Input).value = str(tmp_path / "gone.yaml")
        await press(pilot, "enter")
        assert "cannot read the experiment" in shown(app)


@pytest.mark.parametrize("size", [SMALL, LARGE], ids=["80x24", "120x40"])
async def test_hostile_files_are_only_text(
    experimenting: Paths, app_on: AppOn, shown: Shown, press: Press, size: tuple[int, int]
) -> None:
    folder = experimenting.home / "sweeps"
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
    with Store(experimenting.store) as store:
        store.update_run("sweep-small", error=HOSTILE, info={"at_work": HOSTILE})
        store.update_run("small-kd-s2", error=HOSTILE, info={"stage": HOSTILE}, max_steps=0)
    app = app_on(experimenting)
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


async def test_it_works_without_colour(
    experimenting: Paths,
    app_on: AppOn,
    shown: Shown,
    press: Press,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("NO_COLOR", "1")
    app = app_on(experimenting)
    async with app.run_test(size=SMALL) as pilot:
        await press(pilot, "w", "down", "enter", "down", "escape", "end")
        assert "✗" in shown(app)


# ---------------------------------------------------------------- what is done


async def test_it_asks_before_it_starts_and_says_how_many(
    experimenting: Paths,
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
    app = app_on(experimenting)
    async with app.run_test(size=SMALL) as pilot:
        await press(pilot, "w", "s")
        assert isinstance(app.screen, Confirm)
        assert "24 runs: 24 to start" in shown(app) and "in a separate process" in shown(app)
        await press(pilot, "n")
        assert started == []
        await press(pilot, "s", "y")
        assert [file.name for file in started] == ["baselines.yaml"]
        assert threads[0] is not threading.main_thread()
        assert "sweep-baselines has started" in notified(app)
        # One at work is not started again; one that was stopped is gone on with.
        await press(pilot, "down", "s")
        assert "small is already running" in notified(app) and len(started) == 1
        with Store(experimenting.store) as store:
            store.update_run("sweep-small", status="stopped")
            store.update_run("small-kd-s2", status="stopped")
        app.follow()
        await press(pilot, "s")
        assert "3 to start, 2 to resume, 1 already finished" in shown(app)


async def test_what_cannot_be_started_is_told(
    experimenting: Paths,
    app_on: AppOn,
    notified: Shown,
    press: Press,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def start(paths: Paths, file: Path) -> Any:
        raise ConfigError("the file was changed")

    monkeypatch.setattr("kdharness.harness.experiments.detached.start_sweep", start)
    app = app_on(experimenting)
    async with app.run_test(size=SMALL) as pilot:
        await press(pilot, "w", "s", "y")
        assert "the file was changed" in notified(app)


async def test_it_stops_and_pauses_the_experiment_itself(
    experimenting: Paths, app_on: AppOn, shown: Shown, notified: Shown, press: Press
) -> None:
    app = app_on(experimenting)
    async with app.run_test(size=SMALL) as pilot:
        await press(pilot, "w", "x")
        assert "no run of this experiment is running" in notified(app)
        await press(pilot, "p", "g", "down", "p", "x")
        assert "Stop sweep-small?" in shown(app) and "The current run saves" in shown(app)
        await press(pilot, "y")
        with Store(experimenting.store) as store:
            assert store.take_requests("sweep-small") == [Request.PAUSE, Request.STOP]
            # Carried out by a command in a terminal it has no run of its own.
            store.update_run("sweep-small", status="stopped")
        app.follow()
        await press(pilot, "x")
        assert "Stop small-kd-s2?" in shown(app)


async def test_enter_opens_a_run_that_is_there(
    experimenting: Paths, app_on: AppOn, notified: Shown, press: Press
) -> None:
    app = app_on(experimenting)
    async with app.run_test(size=LARGE) as pilot:
        await press(pilot, "w", "down", "enter", "enter")
        assert isinstance(app.screen, RunScreen) and app.screen.run_id == "small-kd-s1"
        await press(pilot, "escape", "end", "enter")
        assert "small-scores-s2 has not been started" in notified(app)
        await press(pilot, "g")
        assert isinstance(app.screen, RunScreen) and app.screen.run_id == "sweep-small"


async def test_an_experiment_among_the_runs(
    experimenting: Paths, app_on: AppOn, shown: Shown, press: Press
) -> None:
    app = app_on(experimenting)
    async with app.run_test(size=LARGE) as pilot:
        await press(pilot)
        assert "sweep-small" in shown(app) and "expert, kd, scores" in shown(app)
        listing = app.screen.query_one("#list", Listing)
        listing.move_to([row["id"] for row in listing.rows].index("sweep-small"))
        await press(pilot)
        assert "run 1 of 6" in shown(app) and "small-kd-s2 ·" in shown(app)
        await press(pilot, "enter")
        assert isinstance(app.screen, RunScreen) and app.screen.tab == "log"
        assert "now small-kd-s2" in shown(app)
        await press(pilot, "c", "f", "i", "n")
        assert on_screen(app).chosen == experimenting.home / "sweeps" / "small.yaml"
        offered: list[str] = []
        app.choose_runs(offered.extend)
        await press(pilot)
        assert "sweep-small" not in shown(app) and "small-kd-s1" in shown(app)


async def test_the_palette_and_help_know_it(
    experimenting: Paths, app_on: AppOn, shown: Shown, press: Press
) -> None:
    app = app_on(experimenting)
    async with app.run_test(size=LARGE) as pilot:
        await press(pilot)
        for keys in ([], ["2"]):
            await press(pilot, *keys)
            titles = [command.title for command in app.get_system_commands(app.screen)]
            assert titles.count("Experiments") == 1
        await press(pilot, "1", "w", "f1")
        assert "kdharness sweep" in shown(app) and "experiments.start" in shown(app)


async def test_files_are_read_in_threads(
    experimenting: Paths, app_on: AppOn, press: Press, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: list[bool] = []
    real = experiments.load

    def look(*args: Any) -> Any:
        seen.append(threading.current_thread() is threading.main_thread())
        return real(*args)

    monkeypatch.setattr(experiments, "load", look)
    app = app_on(experimenting)
    async with app.run_test(size=SMALL) as pilot:
        await press(pilot, "w", "down", "r")
    assert seen and not any(seen)
