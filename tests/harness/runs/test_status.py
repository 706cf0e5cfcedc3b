"""Run liveness: changed clocks, and two workers for one run."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from kdharness.harness.paths import Paths
from kdharness.harness.runs.status import is_alive, process_started
from kdharness.harness.store import Store
from kdharness.harness.types import Run, RunStatus

# ---------------------------------------------------------------- locks

WORKER = [sys.executable, "-m", "kdharness.harness.worker", "--home"]


@pytest.mark.slow
def test_second_worker_of_a_run_exits(paths: Paths) -> None:
    """A second worker, however it was started, leaves the first one undisturbed."""
    with Store(paths.store) as store:
        store.add_run(
            Run(
                id="r",
                method="eval",
                status=RunStatus.STARTING,
                config={},
                config_hash="",
                folder=str(paths.run("r")),
                created=time.time(),
            )
        )
    with run_lock_held_by_another(paths, "r"):
        second = subprocess.run(
            [*WORKER, str(paths.home), "r"], capture_output=True, text=True, timeout=60
        )
        assert second.returncode == 1 and "another worker is already running r" in second.stdout
        with Store(paths.store) as store:
            run = store.run("r")
            assert run is not None and run.status is RunStatus.STARTING and run.pid is None
            assert store.events("r") == []
    # The first worker was killed, which released its lock.
    third = subprocess.run(
        [*WORKER, str(paths.home), "r"], capture_output=True, text=True, timeout=60
    )
    with Store(paths.store) as store:
        assert [event["kind"] for event in store.events("r")] == ["started", "ended"], third.stdout


class run_lock_held_by_another:
    """Hold a run's lock in another process, which is killed on exit."""

    def __init__(self, paths: Paths, run: str) -> None:
        script = (
            "import sys, time\nfrom pathlib import Path\n"
            "from kdharness.harness.runs.status import run_lock\n"
            "from kdharness.harness.paths import Paths\n"
            "lock = run_lock(Paths(Path(sys.argv[1])), sys.argv[2])\n"
            "lock.acquire()\nprint('held', flush=True)\ntime.sleep(300)\n"
        )
        self.command = [sys.executable, "-c", script, str(paths.home), run]

    def __enter__(self) -> None:
        self.process = subprocess.Popen(self.command, stdout=subprocess.PIPE)
        assert self.process.stdout is not None
        assert self.process.stdout.readline() == b"held\n"

    def __exit__(self, *_: object) -> None:
        self.process.send_signal(signal.SIGKILL)
        self.process.wait()


# ---------------------------------------------------------------- clocks


def live_run(**changes: object) -> Run:
    values: dict[str, object] = {
        "id": "r",
        "method": "kd",
        "status": RunStatus.RUNNING,
        "config": {},
        "config_hash": "",
        "folder": "",
        "created": time.time(),
        "pid": os.getpid(),
        "pid_started": process_started(os.getpid()),
    }
    return Run(**{**values, **changes})  # type: ignore[arg-type]


@pytest.mark.skipif(not Path("/proc/self/stat").exists(), reason="Linux's process table")
def test_run_stays_alive_when_the_clock_is_changed(monkeypatch: pytest.MonkeyPatch) -> None:
    """By the wall clock, a live worker would look like another process with a reused PID."""
    import psutil

    run = live_run()
    create_time = psutil.Process().create_time()
    for shift in (-86_400.0, -3600.0, 3600.0):
        monkeypatch.setattr(time, "time", lambda shift=shift: 1_800_000_000.0 + shift)
        monkeypatch.setattr(psutil, "boot_time", lambda shift=shift: create_time + shift)
        assert is_alive(run)
    assert not is_alive(live_run(pid_started=(run.pid_started or 0) - 5.0))


def test_heartbeat_from_the_future_does_not_count_as_alive() -> None:
    now = time.time()
    for age, alive in ((5.0, True), (500.0, False), (-5.0, True), (-500.0, False)):
        assert is_alive(live_run(host="elsewhere", heartbeat=now - age)) is alive, age
