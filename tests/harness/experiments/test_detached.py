"""An experiment as a run: started, stopped, paused, resumed, and never started twice."""

from __future__ import annotations

import json
import threading
import time
from dataclasses import replace
from pathlib import Path
from typing import Any, cast

import pytest

from kdharness.harness.config.base import reading_stored
from kdharness.harness.config.training import config_hash
from kdharness.harness.errors import ConfigError, RunError
from kdharness.harness.experiments.detached import start_sweep, stored_sweep, what_failed
from kdharness.harness.experiments.expand import load_sweep
from kdharness.harness.experiments.run import Result, run_sweep
from kdharness.harness.paths import Paths
from kdharness.harness.runs import launch
from kdharness.harness.runs.precheck import stored_config
from kdharness.harness.runs.status import find_run, is_alive
from kdharness.harness.store import Store
from kdharness.harness.types import Request, Run, RunStatus
from kdharness.harness.worker import work
from support.commands import CommandLine
from support.experiments import STEPS, TRAINER, sweep_file
from support.waiting import wait_until
from support.workers import Workers, in_thread, stored_run

# ---------------------------------------------------------------- the worker


@pytest.mark.slow
def test_experiment_run_counts_its_runs_and_has_no_checkpoint(
    workers: Workers, paths: Paths, tmp_path: Path
) -> None:
    run = start_sweep(paths, sweep_file(tmp_path, steps=STEPS))
    assert (run.id, run.method, run.status) == ("sweep-x", "sweep", RunStatus.RUNNING)
    assert work(paths, run.id, resume=False) == 0
    run = stored_run(paths, run.id)
    assert (run.status, run.step, run.max_steps) == (RunStatus.FINISHED, 4, 4)
    assert run.checkpoint is None and "at_work" not in run.info
    assert workers.spawned == ["sweep-x", "x-kd", "x-other", "x-expert", "x-more"]
    with Store(paths.store) as store:
        assert store.checkpoints() == []
        notes = [e["message"] for e in store.events(run.id) if e["kind"] == "note"]
    assert len(notes) == 4 and notes[0].startswith("[1/4] x-kd finished in")
    # Started again: nothing is repeated, and a finished experiment can be resumed.
    start_sweep(paths, sweep_file(tmp_path, steps=STEPS))
    assert work(paths, run.id, resume=True) == 0
    assert workers.spawned[5:] == ["sweep-x"]


@pytest.mark.slow
def test_failed_run_is_reported_at_the_end_and_retried_on_resume(
    workers: Workers, paths: Paths, tmp_path: Path
) -> None:
    workers.broken = {"x-expert"}
    start_sweep(paths, sweep_file(tmp_path, steps=STEPS))
    assert work(paths, "sweep-x", resume=False) == 1
    run = stored_run(paths, "sweep-x")
    assert run.status is RunStatus.FAILED and (run.step, run.max_steps) == (2, 4)
    assert run.error == (
        "x-expert failed; x-more needs it and was skipped; 2 of 4 runs finished. "
        "x-expert: the data ran out (kdharness logs x-expert)"
    )
    assert stored_run(paths, "x-other").status is RunStatus.FINISHED
    workers.broken, workers.spawned = set(), []
    launch.resume(paths, "sweep-x")
    assert work(paths, "sweep-x", resume=True) == 0
    assert workers.spawned == ["sweep-x", "x-expert", "x-more"]
    run = stored_run(paths, "sweep-x")
    assert (run.status, run.error, run.step) == (RunStatus.FINISHED, "", 4)


def test_failure_summary_sentences() -> None:
    def result_of(name: str, status: str) -> Result:
        return Result(name, name, status, 1.0, "why" if status == "failed" else "")

    assert what_failed([result_of("a", "finished"), result_of("b", "done before")]) == ""
    assert what_failed([result_of("a", "failed")]) == ("a failed; 0 of 1 runs finished. a: why")
    results = [
        *(result_of(n, "failed") for n in "abcde"),
        result_of("f", "skipped"),
        result_of("g", "skipped"),
        result_of("h", "finished"),
    ]
    assert what_failed(results) == (
        "a, b, c and 2 more failed; f, g need them and were skipped; 1 of 8 runs finished. a: why"
    )


@pytest.mark.slow
def test_stop_is_forwarded_and_the_experiment_can_be_resumed(
    workers: Workers, paths: Paths, tmp_path: Path
) -> None:
    workers.seconds = 60
    start_sweep(paths, sweep_file(tmp_path, steps=STEPS))

    def stop() -> None:
        wait_until(lambda: "x-kd" in workers.spawned and stored_run(paths, "x-kd").status.is_live)
        assert stored_run(paths, "sweep-x").info["at_work"] == "x-kd"
        launch.ask(paths, "sweep-x", Request.STOP)

    stopping = in_thread(stop)
    assert work(paths, "sweep-x", resume=False) == 130
    stopping.join()
    assert stored_run(paths, "sweep-x").status is RunStatus.STOPPED
    assert stored_run(paths, "x-kd").status is RunStatus.STOPPED
    assert workers.spawned == ["sweep-x", "x-kd"]
    workers.seconds = 0.02
    launch.resume(paths, "sweep-x")
    assert work(paths, "sweep-x", resume=True) == 0
    assert stored_run(paths, "sweep-x").step == 4


def test_stopping_one_run_stops_the_experiment(
    workers: Workers, paths: Paths, tmp_path: Path
) -> None:
    workers.seconds = 60
    start_sweep(paths, sweep_file(tmp_path, steps=STEPS))

    def stop() -> None:
        wait_until(lambda: "x-kd" in workers.spawned)
        launch.ask(paths, "x-kd", Request.STOP)

    stopping = in_thread(stop)
    assert work(paths, "sweep-x", resume=False) == 130
    stopping.join()
    with Store(paths.store) as store:
        assert "x-kd was stopped" in [event["message"] for event in store.events("sweep-x")]


@pytest.mark.slow
def test_pause_and_resume_are_forwarded(workers: Workers, paths: Paths, tmp_path: Path) -> None:
    workers.seconds = 0.6
    start_sweep(paths, sweep_file(tmp_path, steps={"kd": STEPS["kd"]}))
    states: list[str] = []

    def pause() -> None:
        wait_until(lambda: "x-kd" in workers.spawned)
        launch.ask(paths, "sweep-x", Request.PAUSE)
        wait_until(lambda: stored_run(paths, "x-kd").status is RunStatus.PAUSED)
        states.append(stored_run(paths, "sweep-x").status.value)
        launch.resume(paths, "sweep-x")
        wait_until(lambda: stored_run(paths, "x-kd").status is RunStatus.RUNNING)
        states.append("goes on")

    pausing = in_thread(pause)
    assert work(paths, "sweep-x", resume=False) == 0
    pausing.join()
    assert states == ["paused", "goes on"]


# ---------------------------------------------------------------- concurrency


@pytest.mark.slow
def test_concurrent_experiments_start_no_run_twice(
    workers: Workers, paths: Paths, tmp_path: Path
) -> None:
    _, planned = load_sweep(sweep_file(tmp_path, steps=STEPS))
    workers.seconds = 0.3
    # One run was left behind by a dead process: all of them try to resume it.
    with Store(paths.store) as store:
        store.add_run(
            Run(
                id="x-kd",
                method="kd",
                status=RunStatus.RUNNING,
                config={},
                folder="",
                created=1.0,
                started=1.0,
                config_hash=config_hash(planned[0].config),
                pid=2**22 + 1,
                pid_started=1.0,
                heartbeat=1.0,
            )
        )
    gate = threading.Barrier(3)
    results_of_each: list[list[Result]] = []

    def run_experiment() -> None:
        gate.wait()
        results_of_each.append(run_sweep(paths, planned, lambda _: None, lambda _: None))

    threads = [in_thread(run_experiment) for _ in range(3)]
    for thread in threads:
        thread.join(timeout=60)
    assert sorted(workers.spawned) == ["x-expert", "x-kd", "x-more", "x-other"]
    assert len(results_of_each) == 3
    assert all(
        r.status in ("finished", "done before") for results in results_of_each for r in results
    )


def test_only_one_of_two_claims_on_a_run_succeeds(paths: Paths) -> None:
    for pid, heartbeat in ((None, None), (7, 123.456789012345)):
        with Store(paths.store) as first, Store(paths.store) as second:
            first.add_run(
                Run(
                    id=f"r{pid}",
                    method="kd",
                    status=RunStatus.STOPPED,
                    config={},
                    config_hash="",
                    folder="",
                    created=1,
                    pid=pid,
                    heartbeat=heartbeat,
                )
            )
            read = [find_run(store, f"r{pid}") for store in (first, second)]
            assert first.claim_run(read[0], status="starting", pid=None, heartbeat=5.0)
            assert not second.claim_run(read[1], status="starting", pid=None, heartbeat=6.0)
            assert find_run(second, f"r{pid}").heartbeat == 5.0


def test_recently_resumed_old_run_counts_as_alive() -> None:
    run = Run(
        id="r",
        method="kd",
        status=RunStatus.STARTING,
        config={},
        config_hash="",
        folder="",
        created=time.time() - 9000,
        heartbeat=time.time(),
    )
    assert is_alive(run)
    assert not is_alive(replace(run, heartbeat=time.time() - 90))


@pytest.mark.slow
def test_starting_a_live_experiment_joins_it_and_rejects_changes(
    workers: Workers, paths: Paths, tmp_path: Path
) -> None:
    file = sweep_file(tmp_path, steps=STEPS)
    start_sweep(paths, file)
    assert start_sweep(paths, file).id == "sweep-x" and workers.spawned == ["sweep-x"]
    steps = {**STEPS, "last": {**STEPS["other"], "seed": 7}}
    with pytest.raises(RunError, match="is running with different settings"):
        start_sweep(paths, sweep_file(tmp_path, steps=steps))
    with Store(paths.store) as store:
        store.update_run("sweep-x", status="stopped")
    start_sweep(paths, sweep_file(tmp_path, steps=STEPS))
    assert work(paths, "sweep-x", resume=True) == 0
    assert stored_run(paths, "sweep-x").max_steps == 4
    start_sweep(paths, sweep_file(tmp_path, steps=steps))
    assert work(paths, "sweep-x", resume=True) == 0
    assert workers.spawned.count("x-kd") == 1
    assert workers.spawned[-2:] == ["sweep-x", "x-last"]
    assert stored_run(paths, "sweep-x").max_steps == 5
    changed = {**STEPS, "kd": {**STEPS["kd"], "seed": 3}}
    with pytest.raises(RunError, match="'x-kd' already exists with different settings"):
        start_sweep(paths, sweep_file(tmp_path, steps=changed))


def test_name_of_a_run_that_is_not_an_experiment_is_rejected(
    workers: Workers, paths: Paths, tmp_path: Path
) -> None:
    with Store(paths.store) as store:
        store.add_run(
            Run(
                id="sweep-x",
                method="kd",
                status=RunStatus.FINISHED,
                config={},
                config_hash="",
                folder="",
                created=1,
            )
        )
    with pytest.raises(RunError, match="is not an experiment"):
        start_sweep(paths, sweep_file(tmp_path, steps=STEPS))


def test_stored_experiment_of_an_older_version_is_read(paths: Paths, tmp_path: Path) -> None:
    """Its settings without effect were accepted; in a new experiment they are refused."""
    former = {**TRAINER, "schedule": "constant", "warmup_ratio": 0.03}
    file = sweep_file(tmp_path, steps={"other": {**STEPS["other"], "trainer": former}})
    with pytest.raises(ConfigError, match="warmup_ratio"):
        load_sweep(file)
    with reading_stored():
        sweep, planned = load_sweep(file)
    copy = paths.run("sweep-x") / "config.yaml"
    copy.parent.mkdir(parents=True)
    copy.write_text(file.read_text("utf-8"), "utf-8")
    run = Run("sweep-x", "sweep", RunStatus.STOPPED, {}, config_hash(cast(Any, sweep)), "", 1.0)
    assert stored_sweep(paths, run) == (sweep, planned)
    values = planned[0].config.model_dump(mode="json", by_alias=True)
    kept = stored_config(replace(run, id="x-other", method="sft", config=values), paths)
    assert kept == planned[0].config


# ---------------------------------------------------------------- real processes


@pytest.mark.slow
def test_detached_experiment_appears_in_all_listings(
    kd: CommandLine, paths: Paths, tiny_teacher: Path, tmp_path: Path
) -> None:
    steps = {
        "kd": {**STEPS["kd"], "teacher": str(tiny_teacher)},
        "other": {
            **STEPS["other"],
            "student": str(tiny_teacher),
            "trainer": {**TRAINER, "max_loss": 1e-3},
        },
        "scores": {
            "method": "eval",
            "checkpoints": ["kd"],
            "benches": ["shop"],
            "limit": 2,
            "max_new_tokens": 2,
        },
    }
    code, out, err = kd(
        "sweep", str(sweep_file(tmp_path, steps=steps, question="Does it?")), "--detach"
    )
    assert (code, out) == (0, "sweep-x\n"), err
    launch.wait(paths, "sweep-x", 200)
    _, out, _ = kd("runs", "--format", "json")
    rows = {row["run"]: row for row in json.loads(out)}
    assert {name: row["status"] for name, row in rows.items()} == {
        "sweep-x": "failed",
        "x-kd": "finished",
        "x-other": "failed",
        "x-scores": "finished",
    }
    assert rows["sweep-x"] | {"started": ""} == {
        "run": "sweep-x",
        "method": "sweep",
        "status": "failed",
        "step": 2,
        "max_steps": 3,
        "loss": None,
        "started": "",
        "checkpoint": None,
    }
    _, out, _ = kd("show", "sweep-x")
    assert "x-other failed; 2 of 3 runs finished" in " ".join(out.split())
    _, out, _ = kd("logs", "sweep-x")
    assert "[1/3] x-kd finished" in out
    code, out, _ = kd("leaderboard", "--format", "json")
    assert code == 0 and {row["checkpoint"] for row in json.loads(out)} == {"x-kd"}
    page = tmp_path / "report.html"
    assert kd("report", "--output", str(page))[0] == 0
    text = page.with_suffix(".md").read_text("utf-8")
    assert "Does it?" in text and "kdharness sweep x.yaml" in text
    assert "kdharness train sweep-x.yaml" not in text


@pytest.mark.slow
def test_detached_experiment_stops_with_a_checkpoint_and_resumes(
    kd: CommandLine, paths: Paths, tiny_teacher: Path, tmp_path: Path
) -> None:
    step = {**STEPS["kd"], "teacher": str(tiny_teacher), "trainer": {**TRAINER, "max_steps": 5000}}
    assert kd("sweep", str(sweep_file(tmp_path, steps={"kd": step})), "--detach")[0] == 0

    def has_trained(steps: int) -> bool:
        with Store(paths.store) as store:
            run = store.run("x-kd")
        return run is not None and run.status is RunStatus.RUNNING and run.step >= steps

    wait_until(lambda: has_trained(2), 90)
    assert kd("stop", "sweep-x")[0] == 0
    assert stored_run(paths, "x-kd").status is RunStatus.STOPPED
    last_step = stored_run(paths, "x-kd").step
    assert list(paths.run("x-kd").glob("checkpoint-*"))
    assert kd("resume", "sweep-x", "--detach")[0] == 0
    wait_until(lambda: has_trained(last_step + 1), 90)
    assert kd("stop", "sweep-x")[0] == 0
    assert stored_run(paths, "sweep-x").status is RunStatus.STOPPED
