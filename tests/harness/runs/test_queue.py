"""Runs that wait until nothing else runs."""

from __future__ import annotations

import json
import os
import shutil
import sqlite3
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import filelock
import pytest

from kdharness.harness.config.files import parse_config
from kdharness.harness.errors import ConfigError, DataError, KDHarnessError, RunError
from kdharness.harness.maintenance.records import plan_removal, rename_record
from kdharness.harness.paths import Paths
from kdharness.harness.runs import launch, queue
from kdharness.harness.store import Store
from kdharness.harness.types import Run, RunStatus
from support.tui_home import add_past_run


def add(paths: Paths, name: str, checkpoint: str = "kd") -> None:
    """Queue an evaluation of a checkpoint, which need not be there."""
    values = {"method": "eval", "checkpoints": [checkpoint], "benches": ["shop"]}
    queue.add(paths, parse_config(values), name)


def order(paths: Paths) -> list[str]:
    """Return the queued runs."""
    with Store(paths.store) as store:
        return [run.id for run in queue.queued(store, paths)]


def test_runs_wait_in_the_order_they_were_added_and_can_be_moved(paths: Paths) -> None:
    for name in ("a", "b", "c"):
        add(paths, name)
    assert order(paths) == ["a", "b", "c"]
    queue.move(paths, "c", -1)
    queue.move(paths, "a", 1)
    assert order(paths) == ["c", "a", "b"]
    for name, by in (("c", -1), ("b", 1), ("nobody", 1)):
        queue.move(paths, name, by)
    assert order(paths) == ["c", "a", "b"]
    with Store(paths.store) as store:
        queue.leave(store, "a")
        assert order(paths) == ["c", "b"]
        run = store.run("a")
        assert run is not None and run.status is RunStatus.STOPPED and run.info == {}
    queue.enqueue(paths, "a")
    assert order(paths) == ["c", "b", "a"]
    with pytest.raises(ConfigError, match="already exists"):
        add(paths, "a")


def test_only_what_can_be_resumed_waits(paths: Paths) -> None:
    with Store(paths.store) as store:
        add_past_run(store, "done", "kd", 9)
        add_past_run(store, "busy", "kd", 9, status="running", pid=os.getpid())
        add_past_run(store, "gone", "kd", 9, status="running", pid=2**22 - 3, pid_started=1.0)
    for name in ("done", "busy"):
        with pytest.raises(RunError, match="only what can be resumed"):
            queue.enqueue(paths, name)
    queue.enqueue(paths, "gone")
    assert order(paths) == ["gone"]
    hints = {"done": "rm done", "busy": "logs busy --follow", "gone": "resume gone"}
    for name, hint in hints.items():
        with pytest.raises(ConfigError, match="already exists") as taken:
            add(paths, name)
        assert hint in (taken.value.hint or "")


def test_a_queued_run_is_renamed_and_protects_what_it_needs(paths: Paths) -> None:
    add(paths, "scores", "kd")
    with Store(paths.store) as store:
        add_past_run(store, "kd", "kd", 9)
        assert plan_removal(paths, store, ["kd"]).users == ("scores",)
        rename_record(paths, store, "scores", "later")
    assert order(paths) == ["later"]


def test_a_copied_home_does_not_run_the_queue_again(paths: Paths, tmp_path: Path) -> None:
    add(paths, "scores")
    copy = Paths(tmp_path / "copy")
    shutil.copytree(paths.home, copy.home)
    assert order(copy) == [] and order(paths) == ["scores"]
    queue.enqueue(copy, "scores")
    assert order(copy) == ["scores"]


def test_a_moved_home_goes_on_with_its_queue(paths: Paths, tmp_path: Path) -> None:
    add(paths, "a")
    add(paths, "b")
    moved = Paths(tmp_path / "moved")
    paths.home.rename(moved.home)
    assert order(moved) == ["a", "b"]
    queue.move(moved, "b", -1)
    add(moved, "c")
    assert order(moved) == ["b", "a", "c"]
    paths.home.symlink_to(moved.home)  # both names lead to it
    assert order(moved) == order(paths) == ["b", "a", "c"]


def test_a_copy_on_another_machine_leaves_the_queue(paths: Paths, tmp_path: Path) -> None:
    add(paths, "a")
    with Store(paths.store) as store:
        store.update_run("a", host="elsewhere")
    moved = Paths(tmp_path / "moved")
    paths.home.rename(moved.home)
    assert order(moved) == []


def test_the_process_of_a_home_that_was_moved_away_ends(
    paths: Paths, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It used to look for its runs in a new, empty home, and to fail them."""
    add(paths, "a")
    moved = Paths(tmp_path / "moved")
    resumed: list[str] = []
    monkeypatch.setattr(queue.launch, "resume", lambda _, run: resumed.append(run))
    monkeypatch.setattr(queue.time, "sleep", lambda _: paths.home.rename(moved.home))
    queue.work(paths, poll=0, settle=60)
    assert resumed == [] and order(moved) == ["a"] and not paths.home.exists()


def test_runs_that_are_queued_at_once_have_places_of_their_own(paths: Paths) -> None:
    names = [f"z{n}" for n in range(6)]
    with Store(paths.store) as store:
        for name in names:
            add_past_run(store, name, "kd", 9, status="stopped")
    with ThreadPoolExecutor(6) as pool:
        list(pool.map(lambda name: queue.enqueue(paths, name), names))
    with Store(paths.store) as store:
        places = [run.info["queued"][0] for run in queue.queued(store, paths)]
    assert places == [1, 2, 3, 4, 5, 6] and sorted(order(paths)) == names


def finish(paths: Paths, run_id: str) -> None:
    """Let a run finish as its worker would, without its place in the queue."""
    with Store(paths.store) as store:
        store.update_run(run_id, status="finished", info={})


def test_the_queue_is_worked_off_one_by_one_and_a_failure_does_not_end_it(
    paths: Paths, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("a", "bad", "c"):
        add(paths, name)
    with Store(paths.store) as store:
        add_past_run(store, "busy", "kd", 9, status="running", pid=os.getpid())
    started: list[str] = []
    polls: list[int] = []

    def resume(paths: Paths, run_id: str) -> Run | None:
        started.append(run_id)
        if run_id == "bad":
            raise ConfigError("no checkpoint named 'kd'")
        finish(paths, run_id)
        return None

    def sleep(_: float) -> None:
        polls.append(len(started))
        if len(polls) == 3:
            assert started == []  # something runs
            with Store(paths.store) as store:
                store.update_run("busy", status="finished")

    monkeypatch.setattr(queue.launch, "resume", resume)
    monkeypatch.setattr(queue.time, "sleep", sleep)
    queue.work(paths, poll=0, settle=0)
    assert started == ["a", "bad", "c"] and order(paths) == []
    with Store(paths.store) as store:
        bad = store.run("bad")
        assert bad is not None and bad.status is RunStatus.FAILED
        assert "no checkpoint named 'kd'" in bad.error and "queued" not in bad.info


def test_one_process_works_the_queue_off(paths: Paths, monkeypatch: pytest.MonkeyPatch) -> None:
    add(paths, "a")
    monkeypatch.setattr(queue, "_work", lambda *_: pytest.fail("a second one"))
    with filelock.FileLock(paths.home / ".queue.lock"):
        queue.work(paths)
    commands: list[object] = []
    monkeypatch.setattr(queue, "start_detached", lambda command: commands.append(command))
    queue.keep(paths)
    with Store(paths.store) as store:
        queue.leave(store, "a")
    queue.keep(paths)
    assert len(commands) == 1


def train_later(paths: Paths, name: str, folder: Path, teacher: Path) -> Path:
    """Queue a short training on a file of a folder; return the file."""
    rows = [{"prompt": f"What is {n}?", "completion": f"It is {n}."} for n in range(6)]
    file = folder / "rows.jsonl"
    file.write_text("".join(json.dumps(row) + "\n" for row in rows), "utf-8")
    values = {
        "method": "sft",
        "student": str(teacher),
        "data": {"train": str(file), "max_length": 64},
        "trainer": {"max_steps": 1, "batch_size": 2, "device": "cpu"},
    }
    queue.add(paths, parse_config(values), name)
    return file


@pytest.mark.slow
def test_a_queued_run_is_checked_and_started_like_a_new_one(
    paths: Paths, tiny_teacher: Path, tmp_path: Path
) -> None:
    """One that starts has left the queue whoever starts it: stopped, it must not come back."""
    train_later(paths, "kd", tmp_path, tiny_teacher)
    launch.resume(paths, "kd")
    assert launch.wait(paths, "kd", 60).status is RunStatus.FINISHED
    with Store(paths.store) as store:
        events = [(event["kind"], event["message"]) for event in store.events("kd")]
        assert "queued" not in (store.run("kd") or Run).info
    assert any(text.startswith("checked before the first step") for _, text in events)
    assert ("started", "") in events and order(paths) == []


def test_what_a_queued_run_needs_is_looked_at_when_its_turn_comes(
    paths: Paths, tiny_teacher: Path, tmp_path: Path
) -> None:
    train_later(paths, "kd", tmp_path, tiny_teacher).unlink()
    with pytest.raises(DataError, match="no such data file") as raised:
        launch.resume(paths, "kd")
    assert "data.train.0.path" in str(raised.value) and order(paths) == ["kd"]
    add(paths, "scores", "nobody")
    with pytest.raises(KDHarnessError, match="nobody"):
        launch.resume(paths, "scores")
    queue.work(paths, poll=0.01, settle=0.02)
    with Store(paths.store) as store:
        errors = {run.id: run.error for run in store.runs() if run.status is RunStatus.FAILED}
    assert "no such data file" in errors["kd"] and "nobody" in errors["scores"]


@pytest.fixture
def told(paths: Paths, monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """What the user's command would be told."""
    messages: list[str] = []

    def start(command: object, variables: dict[str, str]) -> None:
        messages.append(variables["KDHARNESS_MESSAGE"])

    monkeypatch.setattr("kdharness.harness.runs.notify.start_detached", start)
    paths.home.mkdir(parents=True, exist_ok=True)
    paths.settings.write_text("notify: say\n")
    return messages


def ends(paths: Paths, run_id: str) -> list[str]:
    """Return what the log of a run says about its ends, and check that it has failed."""
    with Store(paths.store) as store:
        run = store.run(run_id)
        assert run is not None and run.status is RunStatus.FAILED and run.finished
        found = [str(e["message"]) for e in store.events(run_id) if e["kind"] == "ended"]
        assert found[-1] == run.error
    return found


def test_what_the_queue_cannot_start_is_told(paths: Paths, told: list[str]) -> None:
    add(paths, "scores")
    with Store(paths.store) as store:
        run = store.run("scores")
        assert run is not None
        store.update_run("scores", info={**run.info, "accelerate": "/gone/two.yaml"})
    queue.work(paths, poll=0, settle=0)
    assert len(ends(paths, "scores")) == 1 and "no such accelerate" in ends(paths, "scores")[0]
    assert len(told) == 1 and "scores failed: " in told[0] and "no such accelerate" in told[0]


@pytest.mark.parametrize(
    ("python", "problem"), [("/bin/false", "did not start"), ("/no/python", "cannot be started")]
)
def test_a_worker_that_does_not_start_is_told_once(
    paths: Paths, told: list[str], monkeypatch: pytest.MonkeyPatch, python: str, problem: str
) -> None:
    monkeypatch.setattr(launch, "_check_request", lambda *_: None)
    monkeypatch.setattr(launch.sys, "executable", python)
    for name in ("a", "b"):
        add(paths, name)
    queue.work(paths, poll=0, settle=0)
    for name in ("a", "b"):
        assert len(ends(paths, name)) == 1 and problem in ends(paths, name)[0]
    assert len(told) == 2 and told[0].startswith("a failed: ") and order(paths) == []
    config = parse_config({"method": "eval", "checkpoints": ["kd"], "benches": ["shop"]})
    with pytest.raises(launch.DidNotStart):
        launch.start(paths, config, name="c")
    assert len(told) == 3 and len(ends(paths, "c")) == 1


@pytest.mark.parametrize(
    "error", [PermissionError("no"), sqlite3.DatabaseError("malformed"), RunError("no")]
)
def test_an_unforeseen_error_does_not_end_the_queue(
    paths: Paths, told: list[str], monkeypatch: pytest.MonkeyPatch, error: Exception
) -> None:
    for name in ("a", "b"):
        add(paths, name)

    def resume(paths: Paths, run_id: str) -> None:
        raise error

    monkeypatch.setattr(queue.launch, "resume", resume)
    queue.work(paths, poll=0, settle=0)
    assert ends(paths, "a") == ends(paths, "b") == [str(error)] and len(told) == 2


def test_a_locked_store_delays_the_queue_and_fails_nothing(
    paths: Paths, told: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    add(paths, "a")
    tries: list[str] = []

    def resume(paths: Paths, run_id: str) -> None:
        tries.append(run_id)
        if len(tries) < 3:
            raise sqlite3.OperationalError("database is locked")
        finish(paths, run_id)

    monkeypatch.setattr(queue.launch, "resume", resume)
    queue.work(paths, poll=0, settle=0)
    assert tries == ["a", "a", "a"] and told == []


def test_a_run_that_finished_meanwhile_has_not_failed(
    paths: Paths, told: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    add(paths, "a")

    def resume(paths: Paths, run_id: str) -> None:
        finish(paths, run_id)
        raise RunError("a is finished; there is nothing to resume")

    monkeypatch.setattr(queue.launch, "resume", resume)
    queue.work(paths, poll=0, settle=0)
    with Store(paths.store) as store:
        assert (store.run("a") or Run).status is RunStatus.FINISHED and told == []
