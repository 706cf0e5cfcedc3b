"""An experiment as a run of its own: started, watched, stopped, gone on with, and never doubled."""

from __future__ import annotations

import json
import os
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import yaml

from kdharness.harness.config.training import config_hash
from kdharness.harness.errors import ConfigError, RunError
from kdharness.harness.experiments.detached import start_sweep, stored_sweep, what_failed
from kdharness.harness.experiments.expand import keep_copy, load_sweep, sweeps_folder
from kdharness.harness.experiments.library import experiments, read_experiment
from kdharness.harness.experiments.run import Result, run_sweep
from kdharness.harness.paths import Paths
from kdharness.harness.runs import launch
from kdharness.harness.runs.status import find_run, is_alive, process_started
from kdharness.harness.store import Store
from kdharness.harness.types import Request, Run, RunStatus
from kdharness.harness.worker import work
from support.commands import CommandLine

TRAINER = {"learning_rate": 0.01, "max_steps": 2, "batch_size": 4, "device": "cpu"}
GENERAL = {"path": "general:train", "limit": 16}
STEPS: dict[str, Any] = {
    "kd": {
        "method": "kd",
        "teacher": "base",
        "student": {"from": "teacher", "keep_layers": 2},
        "data": {"train": GENERAL, "max_length": 96},
        "trainer": TRAINER,
    },
    "expert": {
        "method": "sft",
        "student": "kd",
        "trainer": TRAINER,
        "data": {"train": {"path": "shop:train", "kind": "domain"}, "max_length": 96},
    },
    "more": {
        "method": "sft",
        "student": "expert",
        "trainer": TRAINER,
        "data": {"train": GENERAL, "max_length": 96},
    },
    "other": {
        "method": "sft",
        "student": "base",
        "trainer": TRAINER,
        "data": {"train": GENERAL, "max_length": 96},
    },
}


def sweep_file(folder: Path, **values: Any) -> Path:
    path = folder / "experiment.yaml"
    path.write_text(yaml.safe_dump({"name": "x", "steps": STEPS, **values}, sort_keys=False))
    return path


class Workers:
    """Workers that train nothing: threads that take requests and end as they are told."""

    def __init__(self) -> None:
        self.spawned: list[str] = []
        self.seconds = 0.05
        self.broken: set[str] = set()
        self.threads: list[threading.Thread] = []

    def spawn(
        self,
        paths: Paths,
        store: Store,
        run_id: str,
        accelerate: Any,
        *,
        resume: bool,
        timeout: float,
    ) -> Run:
        self.spawned.append(run_id)
        pid = os.getpid()
        store.update_run(
            run_id,
            status="running",
            pid=pid,
            heartbeat=time.time(),
            pid_started=process_started(pid),
        )
        if not run_id.startswith("sweep-"):
            thread = threading.Thread(target=self.train, args=(paths, run_id), daemon=True)
            self.threads.append(thread)
            thread.start()
        return find_run(store, run_id)

    def train(self, paths: Paths, run_id: str) -> None:
        left, paused = self.seconds, False
        with Store(paths.store) as store:
            while left > 0:
                for request in store.take_requests(run_id):
                    if request is Request.STOP:
                        store.update_run(run_id, status="stopped")
                        return
                    paused = request is Request.PAUSE
                    store.update_run(run_id, status="paused" if paused else "running")
                time.sleep(0.01)
                left -= 0 if paused else 0.01
            broken = run_id in self.broken
            store.update_run(
                run_id,
                status="failed" if broken else "finished",
                error="the data ran out" if broken else "",
            )


@pytest.fixture
def workers(monkeypatch: pytest.MonkeyPatch) -> Iterator[Workers]:
    made = Workers()
    monkeypatch.setattr(launch, "_spawn", made.spawn)
    # The models of these experiments are names alone.
    monkeypatch.setattr("kdharness.harness.runs.precheck.check_request", lambda *_, **__: None)
    yield made
    for thread in made.threads:
        thread.join(timeout=20)


def get(paths: Paths, run_id: str) -> Run:
    with Store(paths.store) as store:
        return find_run(store, run_id)


def until(condition: Callable[[], bool], seconds: float = 20.0) -> None:
    deadline = time.time() + seconds
    while not condition():
        assert time.time() < deadline, "waited in vain"
        time.sleep(0.01)


def after(act: Callable[[], None]) -> threading.Thread:
    thread = threading.Thread(target=act, daemon=True)
    thread.start()
    return thread


# ---------------------------------------------------------------- files


def test_what_a_worker_is_given_needs_no_other_file(
    workers: Workers, tmp_path: Path, paths: Paths
) -> None:
    (tmp_path / "rows.jsonl").write_text("{}\n")
    kd = {**STEPS["kd"], "data": {"train": {"path": "rows.jsonl"}}}
    (tmp_path / "kd.yaml").write_text(yaml.safe_dump(kd))
    steps = {**STEPS, "kd": {"config": "kd.yaml"}, "late": {"preset": "kd-laptop", "needs": "kd"}}
    file = sweep_file(
        tmp_path,
        steps=steps,
        vary={"seed": [1, 2], "kd.trainer.max_steps": [2, 3], "expert.seed": [4]},
    )
    _, planned = load_sweep(file)
    run = start_sweep(paths, file)
    (tmp_path / "kd.yaml").unlink()
    # The order counts: it is that of the work, and of the settings in the runs' names.
    assert stored_sweep(paths, run)[1] == planned
    own = paths.run(run.id) / "config.yaml"
    own.write_text(own.read_text().replace("max_length: 96", "max_length: 97"))
    with pytest.raises(ConfigError, match="not what was started"):
        stored_sweep(paths, run)


def test_a_kept_file_can_be_planned_where_it_lies(tmp_path: Path, paths: Paths) -> None:
    file = sweep_file(tmp_path, question="Why?")
    keep_copy(paths, file, load_sweep(file)[0])
    kept = sweeps_folder(paths) / "x.yaml"
    assert kept.read_text() == file.read_text()
    (tmp_path / "kd.yaml").write_text(yaml.safe_dump(STEPS["kd"]))
    file = sweep_file(tmp_path, question="Why?", steps={**STEPS, "kd": "kd.yaml"})
    sweep, planned = load_sweep(file, ["vary.seed=[1, 2]"])
    keep_copy(paths, file, sweep)
    assert load_sweep(kept)[1] == planned and len(planned) == 8
    assert "claims" not in kept.read_text()
    assert [one.origin for one in experiments(paths)][-1] == "kept"
    assert read_experiment(kept, "kept").question == "Why?"


def test_a_file_that_cannot_be_read_is_listed_by_its_name(tmp_path: Path) -> None:
    for number, content in enumerate([b"a: [", b"- 1", b"\xff\xfe", b"x" * 1_100_000]):
        file = tmp_path / f"e{number}.yaml"
        file.write_bytes(content)
        assert (read_experiment(file, "kept").name, read_experiment(file, "kept").question) == (
            f"e{number}",
            "",
        )
    assert read_experiment(tmp_path / "gone.yaml", "kept").name == "gone"


# ---------------------------------------------------------------- the worker


def test_it_counts_runs_and_makes_no_checkpoint(
    workers: Workers, paths: Paths, tmp_path: Path
) -> None:
    run = start_sweep(paths, sweep_file(tmp_path))
    assert (run.id, run.method, run.status) == ("sweep-x", "sweep", RunStatus.RUNNING)
    assert work(paths, run.id, resume=False) == 0
    run = get(paths, run.id)
    assert (run.status, run.step, run.max_steps) == (RunStatus.FINISHED, 4, 4)
    assert run.checkpoint is None and "at_work" not in run.info
    assert workers.spawned == ["sweep-x", "x-kd", "x-other", "x-expert", "x-more"]
    with Store(paths.store) as store:
        assert store.checkpoints() == []
        notes = [e["message"] for e in store.events(run.id) if e["kind"] == "note"]
    assert len(notes) == 4 and notes[0].startswith("[1/4] x-kd finished in")
    # Once more: nothing is repeated, and a finished experiment may be gone on with.
    start_sweep(paths, sweep_file(tmp_path))
    assert work(paths, run.id, resume=True) == 0
    assert workers.spawned[5:] == ["sweep-x"]


def test_a_failure_is_told_after_the_rest_is_done_and_tried_again(
    workers: Workers, paths: Paths, tmp_path: Path
) -> None:
    workers.broken = {"x-expert"}
    start_sweep(paths, sweep_file(tmp_path))
    assert work(paths, "sweep-x", resume=False) == 1
    run = get(paths, "sweep-x")
    assert run.status is RunStatus.FAILED and (run.step, run.max_steps) == (2, 4)
    assert run.error == (
        "x-expert failed; x-more needs it and was skipped; the rest was done (2 of 4 runs). "
        "x-expert: the data ran out (kdharness logs x-expert)"
    )
    assert get(paths, "x-other").status is RunStatus.FINISHED
    workers.broken, workers.spawned = set(), []
    launch.resume(paths, "sweep-x")
    assert work(paths, "sweep-x", resume=True) == 0
    assert workers.spawned == ["sweep-x", "x-expert", "x-more"]
    run = get(paths, "sweep-x")
    assert (run.status, run.error, run.step) == (RunStatus.FINISHED, "", 4)


def test_sentences_about_failures() -> None:
    def ended(name: str, status: str) -> Result:
        return Result(name, name, status, 1.0, "why" if status == "failed" else "")

    assert what_failed([ended("a", "finished"), ended("b", "done before")]) == ""
    assert what_failed([ended("a", "failed")]) == (
        "a failed; nothing else was left to do (0 of 1 runs). a: why"
    )
    many = [
        *(ended(n, "failed") for n in "abcde"),
        ended("f", "skipped"),
        ended("g", "skipped"),
        ended("h", "finished"),
    ]
    assert what_failed(many) == (
        "a, b, c and 2 more failed; f, g need them and were skipped; "
        "the rest was done (1 of 8 runs). a: why"
    )


def test_stop_is_passed_on_and_the_experiment_goes_on_later(
    workers: Workers, paths: Paths, tmp_path: Path
) -> None:
    workers.seconds = 60
    start_sweep(paths, sweep_file(tmp_path))

    def stop() -> None:
        until(lambda: "x-kd" in workers.spawned and get(paths, "x-kd").status.is_live)
        assert get(paths, "sweep-x").info["at_work"] == "x-kd"
        launch.ask(paths, "sweep-x", Request.STOP)

    stopping = after(stop)
    assert work(paths, "sweep-x", resume=False) == 130
    stopping.join()
    assert get(paths, "sweep-x").status is RunStatus.STOPPED
    assert get(paths, "x-kd").status is RunStatus.STOPPED
    assert workers.spawned == ["sweep-x", "x-kd"]
    workers.seconds = 0.02
    launch.resume(paths, "sweep-x")
    assert work(paths, "sweep-x", resume=True) == 0
    assert get(paths, "sweep-x").step == 4


def test_a_run_stopped_by_itself_stops_the_experiment(
    workers: Workers, paths: Paths, tmp_path: Path
) -> None:
    workers.seconds = 60
    start_sweep(paths, sweep_file(tmp_path))

    def stop() -> None:
        until(lambda: "x-kd" in workers.spawned)
        launch.ask(paths, "x-kd", Request.STOP)

    stopping = after(stop)
    assert work(paths, "sweep-x", resume=False) == 130
    stopping.join()
    with Store(paths.store) as store:
        assert "x-kd was stopped" in [event["message"] for event in store.events("sweep-x")]


def test_pause_is_passed_on(workers: Workers, paths: Paths, tmp_path: Path) -> None:
    workers.seconds = 0.6
    start_sweep(paths, sweep_file(tmp_path, steps={"kd": STEPS["kd"]}))
    seen: list[str] = []

    def pause() -> None:
        until(lambda: "x-kd" in workers.spawned)
        launch.ask(paths, "sweep-x", Request.PAUSE)
        until(lambda: get(paths, "x-kd").status is RunStatus.PAUSED)
        seen.append(get(paths, "sweep-x").status.value)
        launch.resume(paths, "sweep-x")
        until(lambda: get(paths, "x-kd").status is RunStatus.RUNNING)
        seen.append("goes on")

    pausing = after(pause)
    assert work(paths, "sweep-x", resume=False) == 0
    pausing.join()
    assert seen == ["paused", "goes on"]


# ---------------------------------------------------------------- two at once


def test_two_processes_start_no_run_twice(workers: Workers, paths: Paths, tmp_path: Path) -> None:
    _, planned = load_sweep(sweep_file(tmp_path))
    workers.seconds = 0.3
    # One run was left behind by a process that is gone: both want to resume it.
    with Store(paths.store) as store:
        store.add_run(
            Run(
                id="x-kd",
                method="kd",
                status=RunStatus.RUNNING,
                config={},
                folder="",
                created=1.0,
                config_hash=config_hash(planned[0].config),
                pid=2**22 + 1,
                pid_started=1.0,
                heartbeat=1.0,
            )
        )
    gate = threading.Barrier(3)
    ended: list[list[Result]] = []

    def carry_out() -> None:
        gate.wait()
        ended.append(run_sweep(paths, planned, lambda _: None, lambda _: None))

    both = [after(carry_out) for _ in range(3)]
    for thread in both:
        thread.join(timeout=60)
    assert sorted(workers.spawned) == ["x-expert", "x-kd", "x-more", "x-other"]
    assert len(ended) == 3
    assert all(r.status in ("finished", "done before") for results in ended for r in results)


def test_of_two_that_claim_a_run_one_gets_it(paths: Paths) -> None:
    for pid, heartbeat in ((None, None), (7, 123.456789012345)):
        with Store(paths.store) as one, Store(paths.store) as two:
            one.add_run(
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
            read = [find_run(store, f"r{pid}") for store in (one, two)]
            assert one.claim_run(read[0], status="starting", pid=None, heartbeat=5.0)
            assert not two.claim_run(read[1], status="starting", pid=None, heartbeat=6.0)
            assert find_run(two, f"r{pid}").heartbeat == 5.0


def test_a_run_just_resumed_counts_as_live_however_old_it_is() -> None:
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


def test_a_live_experiment_is_joined_and_a_changed_one_is_not_mixed_in(
    workers: Workers, paths: Paths, tmp_path: Path
) -> None:
    file = sweep_file(tmp_path)
    start_sweep(paths, file)
    assert start_sweep(paths, file).id == "sweep-x" and workers.spawned == ["sweep-x"]
    steps = {**STEPS, "last": {**STEPS["other"], "seed": 7}}
    with pytest.raises(RunError, match="is at work with other settings"):
        start_sweep(paths, sweep_file(tmp_path, steps=steps))
    with Store(paths.store) as store:
        store.update_run("sweep-x", status="stopped")
    start_sweep(paths, sweep_file(tmp_path))
    assert work(paths, "sweep-x", resume=True) == 0
    assert get(paths, "sweep-x").max_steps == 4
    start_sweep(paths, sweep_file(tmp_path, steps=steps))
    assert work(paths, "sweep-x", resume=True) == 0
    assert workers.spawned.count("x-kd") == 1
    assert workers.spawned[-2:] == ["sweep-x", "x-last"]
    assert get(paths, "sweep-x").max_steps == 5
    changed = {**STEPS, "kd": {**STEPS["kd"], "seed": 3}}
    with pytest.raises(RunError, match="'x-kd' was made with other settings"):
        start_sweep(paths, sweep_file(tmp_path, steps=changed))


def test_a_run_that_is_no_experiment_keeps_its_name(
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
    with pytest.raises(RunError, match="is no experiment"):
        start_sweep(paths, sweep_file(tmp_path))


# ---------------------------------------------------------------- real processes


@pytest.mark.slow
def test_detached_it_is_a_run_as_any_other(
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
    assert "x-other failed; the rest was done (2 of 3 runs)" in " ".join(out.split())
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
def test_detached_it_stops_with_a_checkpoint_and_goes_on(
    kd: CommandLine, paths: Paths, tiny_teacher: Path, tmp_path: Path
) -> None:
    one = {**STEPS["kd"], "teacher": str(tiny_teacher), "trainer": {**TRAINER, "max_steps": 5000}}
    assert kd("sweep", str(sweep_file(tmp_path, steps={"kd": one})), "--detach")[0] == 0

    def trained(steps: int) -> bool:
        with Store(paths.store) as store:
            run = store.run("x-kd")
        return run is not None and run.status is RunStatus.RUNNING and run.step >= steps

    until(lambda: trained(2), 90)
    assert kd("stop", "sweep-x")[0] == 0
    assert get(paths, "x-kd").status is RunStatus.STOPPED
    reached = get(paths, "x-kd").step
    assert list(paths.run("x-kd").glob("checkpoint-*"))
    assert kd("resume", "sweep-x", "--detach")[0] == 0
    until(lambda: trained(reached + 1), 90)
    assert kd("stop", "sweep-x")[0] == 0
    assert get(paths, "sweep-x").status is RunStatus.STOPPED
