"""Fixtures: the app on homes with known runs, and key presses."""

from __future__ import annotations

import os
import time
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import pytest
import yaml
from textual.pilot import Pilot

from kdharness.harness.paths import Paths
from kdharness.harness.store import Store
from kdharness.harness.types import Run, RunStatus
from kdharness.tui.app import HarnessApp
from kdharness.tui.viewmodels.machine import Sampler
from support.app import AppOn, Press, Shown, notifications, painted
from support.forms import canned_plan
from support.machine import SAMPLE
from support.tui_home import INVALID_SWEEP, NOW, STEPS, add_past_run, fill_sample_data


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Paths:
    """An empty home; `NO_COLOR` and judge settings of the environment are not inherited."""
    for name in ("NO_COLOR", "KDHARNESS_JUDGE", "KDHARNESS_ASSETS"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr(Sampler, "read", lambda _: SAMPLE)
    monkeypatch.setenv("TZ", "UTC")
    time.tzset()
    return Paths(tmp_path / "home")


@pytest.fixture
def filled(home: Paths) -> Paths:
    """A home with finished, running and failed runs."""
    with Store(home.store) as store:
        fill_sample_data(store)
    return home


@pytest.fixture
def experiment_home(filled: Paths, monkeypatch: pytest.MonkeyPatch) -> Paths:
    """A home with a running experiment and an invalid experiment file, next to a shipped one."""
    from kdharness.harness.config.training import config_hash
    from kdharness.harness.experiments import library
    from kdharness.harness.experiments.expand import inline_files, load_sweep

    monkeypatch.setattr(library, "experiment_names", lambda: ["baselines"])
    folder = filled.home / "sweeps"
    folder.mkdir()
    file = folder / "small.yaml"
    file.write_text(
        yaml.safe_dump(
            {
                "name": "small",
                "question": "Does the expert forget?",
                "steps": STEPS,
                "vary": {"seed": [1, 2]},
            },
            sort_keys=False,
        )
    )
    (folder / "wrong.yaml").write_text(INVALID_SWEEP)
    sweep, planned_runs = load_sweep(file)
    full_config = inline_files(sweep, folder).model_dump(mode="json")
    states: dict[str, dict[str, Any]] = {
        "small-kd-s1": {"step": 50, "max_steps": 50, "loss": 1.25, "checkpoint": "kd"},
        "small-kd-s2": {
            "step": 20,
            "max_steps": 50,
            "loss": 1.75,
            "pid": os.getpid(),
            "status": RunStatus.RUNNING,
            "info": {"stage": "training"},
        },
        "small-expert-s1": {"status": RunStatus.FAILED, "max_steps": 50, "error": "out of memory"},
    }
    with Store(filled.store) as store:
        for planned_run in planned_runs:
            if planned_run.name in states:
                add_past_run(
                    store,
                    planned_run.name,
                    planned_run.config.method,
                    700,
                    **states[planned_run.name],
                    config=planned_run.config.model_dump(mode="json", by_alias=True),
                )
                store.update_run(planned_run.name, config_hash=config_hash(planned_run.config))
        add_past_run(
            store,
            "sweep-small",
            "sweep",
            800,
            config=full_config,
            status=RunStatus.RUNNING,
            pid=os.getpid(),
            step=1,
            max_steps=6,
            info={"stage": "runs", "at_work": "small-kd-s2"},
        )
    return filled


@pytest.fixture
def app_on() -> AppOn:
    """Make an app with a frozen clock."""
    return lambda paths: HarnessApp(paths, clock=lambda: NOW)


@pytest.fixture
def shown() -> Shown:
    """The text on the screen."""
    return lambda app: "\n".join(strip.text for strip in painted(app))


@pytest.fixture
def notified() -> Shown:
    """The text of the notifications."""
    return lambda app: "\n".join(notifications(app))


async def settle(pilot: Pilot[None]) -> None:
    """Wait until no worker thread is busy."""
    while getattr(pilot.app, "busy", False):
        await pilot.pause(0.01)
    await pilot.pause()


@pytest.fixture
def settled() -> Callable[[Pilot[None]], Awaitable[None]]:
    """Wait until no worker thread is busy."""
    return settle


@pytest.fixture
def press() -> Press:
    """Press keys, letting threads finish after each."""

    async def press_keys(pilot: Pilot[None], *keys: str) -> None:
        await settle(pilot)
        for key in keys:
            await pilot.press(key)
            if pilot.app.busy:  # type: ignore[attr-defined]
                await settle(pilot)
        await pilot.pause()

    return press_keys


@pytest.fixture
def started(filled: Paths, monkeypatch: pytest.MonkeyPatch) -> list[Any]:
    """Configs passed to `launch.start`, which is replaced by a stub."""
    configs: list[Any] = []

    def start(paths: Paths, config: Any, **_: Any) -> Run:
        configs.append(config)
        with Store(paths.store) as store:
            run = store.run("kd")
            assert run is not None
            return run

    monkeypatch.setattr("kdharness.harness.runs.launch.start", start)
    monkeypatch.setattr("kdharness.tui.viewmodels.estimates.run_json", canned_plan)
    return configs
