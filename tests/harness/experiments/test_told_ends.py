"""Who is told how an experiment in the foreground has ended, and its runs when resumed alone."""

from __future__ import annotations

from pathlib import Path

import pytest

from kdharness.harness.errors import AssetError, Interrupted
from kdharness.harness.experiments.expand import load_sweep
from kdharness.harness.experiments.run import run_sweep
from kdharness.harness.paths import Paths
from kdharness.harness.runs import launch, queue
from kdharness.harness.runs.status import is_part
from kdharness.harness.store import Store
from support.commands import CommandLine
from support.experiments import sweep_file, sweep_steps
from support.workers import Workers


@pytest.fixture
def told(paths: Paths, monkeypatch: pytest.MonkeyPatch) -> list[tuple[str, str]]:
    """(State, message) of what the user's command would be told."""
    found: list[tuple[str, str]] = []

    def start(command: object, variables: dict[str, str]) -> None:
        found.append((variables["KDHARNESS_STATE"], variables["KDHARNESS_MESSAGE"]))

    monkeypatch.setattr("kdharness.harness.runs.notify.start_detached", start)
    paths.home.mkdir(parents=True, exist_ok=True)
    paths.settings.write_text("notify: say\n")
    return found


def test_an_experiment_in_the_foreground_tells_its_end_once(
    kd: CommandLine, tmp_path: Path, workers: Workers, told: list[tuple[str, str]]
) -> None:
    file = str(sweep_file(tmp_path, steps=sweep_steps()))
    workers.broken = {"x-expert"}
    assert kd("sweep", file)[0] == 1
    assert len(told) == 1 and told[0][0] == "failed"
    assert told[0][1].startswith("x failed: x-expert failed; ") and "1 of 5 runs" in told[0][1]
    told.clear()
    kd.ok("sweep", file, "--dry-run")
    assert told == []
    workers.broken = set()
    kd.ok("sweep", file)
    assert told == [("finished", "x finished")]


@pytest.mark.parametrize(
    ("error", "state", "message"),
    [
        (Interrupted("x-kd was stopped"), "stopped", "x stopped"),
        (KeyboardInterrupt(), "stopped", "x stopped"),
        (AssetError("no source has it"), "failed", "x failed: no source has it"),
        (OSError(28, "No space left on device"), "failed", "No space left on device"),
    ],
)
def test_one_that_is_cut_short_tells_it_as_well(
    kd: CommandLine,
    tmp_path: Path,
    told: list[tuple[str, str]],
    monkeypatch: pytest.MonkeyPatch,
    error: BaseException,
    state: str,
    message: str,
) -> None:
    def fail(*_: object, **__: object) -> None:
        raise error

    monkeypatch.setattr("kdharness.harness.cli.experiments.run_sweep", fail)
    assert kd("sweep", str(sweep_file(tmp_path, steps=sweep_steps())))[0] != 0
    assert len(told) == 1 and told[0][0] == state and message in told[0][1]


def test_settings_that_cannot_be_read_change_nothing_and_are_named(
    kd: CommandLine, paths: Paths, tmp_path: Path, workers: Workers
) -> None:
    paths.home.mkdir(parents=True, exist_ok=True)
    paths.settings.write_text("notify: {comand: say}\n")
    code, _, err = kd("sweep", str(sweep_file(tmp_path, steps=sweep_steps())))
    assert code == 0 and "notify: " in err and "comand" in err


def test_a_run_that_is_resumed_alone_is_no_longer_part_of_its_experiment(
    paths: Paths, tmp_path: Path, workers: Workers
) -> None:
    planned = load_sweep(sweep_file(tmp_path, steps=sweep_steps()))[1]
    workers.broken = {"x-kd"}
    run_sweep(paths, planned, lambda _: None, lambda _: None)

    def part(name: str) -> bool:
        with Store(paths.store) as store:
            run = store.run(name)
            assert run is not None
            return is_part(run)

    assert part("x-kd")
    launch.resume(paths, "x-kd")
    launch.wait(paths, "x-kd", 20)
    assert not part("x-kd")
    workers.broken = set()
    run_sweep(paths, planned, lambda _: None, lambda _: None)
    assert part("x-kd")
    with Store(paths.store) as store:
        store.update_run("x-expert", status="stopped")
    queue.enqueue(paths, "x-expert")
    queue.work(paths, poll=0.01, settle=0)
    launch.wait(paths, "x-expert", 20)
    assert not part("x-expert")
