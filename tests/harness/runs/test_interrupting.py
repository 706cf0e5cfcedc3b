"""What a person sees who interrupts, stops or kills: nothing is left running unnoticed."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from kdharness.harness.cli import progress
from kdharness.harness.cli.progress import ProgressView, progress_text
from kdharness.harness.errors import Interrupted
from kdharness.harness.paths import Paths
from kdharness.harness.runs.killing import kill_worker
from kdharness.harness.runs.status import effective_status, find_run, is_alive, process_started
from kdharness.harness.runs.watch import poll
from kdharness.harness.store import Store
from kdharness.harness.types import Run, RunStatus
from support.commands import CommandLine, start_command
from support.waiting import wait_until

STUBBORN = """
import signal, subprocess, sys, time
signal.signal(signal.SIGTERM, signal.SIG_IGN)
signal.signal(signal.SIGINT, signal.SIG_IGN)
child = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(60)"])
print(child.pid, flush=True)
time.sleep(60)
"""


@pytest.fixture
def stubborn(paths: Paths) -> Iterator[tuple[Run, int]]:
    """Store a run whose worker ignores every request; return it and its child's pid."""
    worker = subprocess.Popen(
        [sys.executable, "-c", STUBBORN], start_new_session=True, stdout=subprocess.PIPE
    )
    assert worker.stdout is not None
    child = int(worker.stdout.readline())
    run = Run(
        id="busy",
        method="kd",
        status=RunStatus.RUNNING,
        config={},
        config_hash="h",
        folder=str(paths.run("busy")),
        created=time.time(),
        heartbeat=time.time(),
        pid=worker.pid,
        pid_started=process_started(worker.pid),
        host=os.uname().nodename,
        max_steps=40,
        step=12,
        loss=2.5,
        info={"stage": "training"},
    )
    paths.run("busy").mkdir(parents=True)
    (paths.run("busy") / "worker.log").write_text("hello\n")
    with Store(paths.store) as store:
        store.add_run(run)
    yield run, child
    for pid in (worker.pid, child):
        try:
            os.kill(pid, signal.SIGKILL)
        except ProcessLookupError:
            continue
    worker.wait()


def test_a_second_ctrl_c_kills_the_worker_and_what_it_started(
    stubborn: tuple[Run, int], paths: Paths
) -> None:
    run, child = stubborn
    pressed: list[int] = []
    told: list[str] = []

    def show(current: Run, stopping: bool) -> None:
        pressed.append(1)
        if len(pressed) in (2, 4):
            raise KeyboardInterrupt

    with Store(paths.store) as store:
        with pytest.raises(Interrupted, match="busy was killed") as caught:
            poll(store, "busy", show, lambda: told.append("stopping"))
        assert told == ["stopping"] and "kdharness resume busy" in caught.value.hint
        assert effective_status(find_run(store, "busy")) is RunStatus.INTERRUPTED
    assert not is_alive(run)
    wait_until(lambda: process_started(child) is None)


def test_killing_what_is_not_running_does_nothing(paths: Paths) -> None:
    with Store(paths.store) as store:
        run = Run("old", "kd", RunStatus.FINISHED, {}, "h", "", 1.0, pid=os.getpid())
        store.add_run(run)
        assert kill_worker(store, "old") == store.run("old")


@pytest.mark.slow
def test_stop_says_what_it_waits_for_and_can_kill(
    stubborn: tuple[Run, int], paths: Paths, kd: CommandLine
) -> None:
    process = start_command("--home", str(paths.home), "stop", "busy")
    assert process.stderr is not None
    assert process.stderr.readline() == "stopping busy: saving a checkpoint\n"
    process.send_signal(signal.SIGINT)
    _, err = process.communicate(timeout=30)
    assert process.returncode == 130 and "kdharness stop --kill busy" in err
    code, _, err = kd("stop", "busy", "--kill")
    assert code == 0 and "busy interrupted; resume it with: kdharness resume busy" in err


@pytest.mark.slow
def test_ctrl_c_on_the_log_of_a_run_leaves_it_running(
    stubborn: tuple[Run, int], paths: Paths
) -> None:
    process = start_command("--home", str(paths.home), "logs", "-f", "busy")
    assert process.stdout is not None and process.stdout.readline() == "hello\n"
    process.send_signal(signal.SIGINT)
    _, err = process.communicate(timeout=30)
    assert process.returncode == 130 and "no longer following busy" in err
    assert "stored" not in err and is_alive(stubborn[0])


# ---------------------------------------------------------------- progress


def test_progress_without_a_terminal_is_a_line_per_stage_and_one_a_minute(
    stubborn: tuple[Run, int],
    paths: Paths,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    clock = [1000.0]
    monkeypatch.setattr(progress.time, "time", lambda: clock[0])
    view = ProgressView("busy")
    with Store(paths.store) as store:
        store.update_run("busy", max_steps=0, step=0, loss=None, info={})
        view.show(find_run(store, "busy"), store)  # nothing is known yet
        for second in range(200):
            clock[0] = 1000.0 + second
            stage = "training" if second < 130 else "saving"
            store.update_run("busy", max_steps=400, step=second, info={"stage": stage})
            view.show(find_run(store, "busy"), store)
        for _ in range(200):  # stuck: nothing moves, nothing is printed
            clock[0] += 1
            view.show(find_run(store, "busy"), store)
    lines = capsys.readouterr().err.splitlines()
    assert lines == [
        "busy: training 0/400",
        "busy: training 60/400",
        "busy: training 120/400",
        "busy: saving 130/400",
        "busy: saving 190/400",
        "busy: saving 199/400",
    ]


def test_unknown_numbers_are_left_out_of_progress(stubborn: tuple[Run, int]) -> None:
    run, _ = stubborn
    assert progress_text(run) == "training 12/40, loss 2.5000"


def test_eval_says_before_it_starts_what_will_not_be_scored(
    kd: CommandLine, assets_home: Paths, model_folder: Path
) -> None:
    args = ["eval", "--ckpt", str(model_folder), "--limit", "2", "--dry-run"]
    code, _, err = kd(*args, "--bench", "mt-bench,shop")
    assert "warning: no judge: mt-bench will be answered, but not scored" in err, (code, err)
    err = kd(*args, "--bench", "shop")[2]
    assert "no judge" not in err


def test_a_mistyped_checkpoint_has_a_suggestion_and_leaves_no_run(
    kd: CommandLine, store: Store
) -> None:
    store.add_run(Run("demo-kd", "kd", RunStatus.FINISHED, {}, "h", "", 1.0))
    code, _, err = kd("eval", "--ckpt", "demo-kdd", "--bench", "shop")
    assert code != 0 and "no model named 'demo-kdd'; did you mean demo-kd?" in err
    assert [run.id for run in store.runs()] == ["demo-kd"]
