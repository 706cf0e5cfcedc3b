"""Progress as JSON lines, and none at all, on stderr."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from kdharness.harness.cli.progress import JsonView, ProgressView
from kdharness.harness.paths import Paths
from kdharness.harness.runs.status import find_run
from kdharness.harness.store import Store
from kdharness.harness.types import RunStatus
from support.commands import CommandLine
from support.configs import TRAINER, config_file
from support.scored_store import add_run


@pytest.fixture
def config(tiny_teacher: Path, tmp_path: Path) -> str:
    return config_file(
        tmp_path,
        method="sft",
        name="run",
        student=str(tiny_teacher),
        data={"train": {"path": "general:train", "limit": 8}, "max_length": 96},
        trainer=TRAINER,
    )


@pytest.mark.slow
def test_json_progress_is_one_object_a_line(kd: CommandLine, config: str) -> None:
    code, out, err = kd("train", config, "--json-progress")
    assert code == 0 and out.split() == ["run"]
    events = [json.loads(line) for line in err.splitlines()]
    assert {event["run"] for event in events} == {"run"}
    assert [event["time"] for event in events] == sorted(event["time"] for event in events)
    progress = [event for event in events if event["event"] == "progress"]
    assert (progress[-1]["step"], progress[-1]["total"]) == (4, 4)
    assert progress[-1]["loss"] > 0 and {"stage", "eta_seconds"} <= set(progress[-1])
    assert any(event["event"] == "note" for event in events)
    assert events[-1]["event"] == "ended"
    assert (events[-1]["status"], events[-1]["checkpoint"]) == ("finished", "run")


@pytest.mark.slow
def test_quiet_prints_results_and_errors_alone(kd: CommandLine, config: str) -> None:
    assert kd("--quiet", "train", config) == (0, "run\n", "")
    code, _, err = kd(
        "train", config, "--name", "other", "--quiet", "--set", "student.model=nosuch"
    )
    assert code != 0 and "nosuch" in err


def test_two_kinds_of_progress_are_refused(kd: CommandLine) -> None:
    code, _, err = kd("runs", "--quiet", "--json-progress")
    assert code == 2 and "give one of" in err


def test_a_resumed_run_shows_what_is_new(
    kd: CommandLine,
    paths: Paths,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """Notes of the first start came again, with the time of the second."""
    followed: list[int] = []
    monkeypatch.setattr(
        "kdharness.harness.cli.runs.follow", lambda _, run, after: followed.append(after)
    )
    monkeypatch.setattr("kdharness.harness.cli.runs.launch.resume", lambda *_: None)
    with Store(paths.store) as store:
        add_run(store, "old")
        add_run(store, "none")
        store.update_run("old", status=RunStatus.RUNNING, pid=2**22 + 1, heartbeat=1.0)
        store.add_event("old", "note", "of the first start")
        kd.ok("resume", "old")
        kd.ok("resume", "none")
        store.add_event("old", "note", "resuming")
        capsys.readouterr()
        for view in (JsonView("old", followed[0]), ProgressView("old", followed[0])):
            view.show(find_run(store, "old"), store)
    assert followed[0] > 0 and followed[1] == 0
    err = capsys.readouterr().err
    assert err.count("resuming") == 2 and "first start" not in err
    # Its process is gone: programs read that it ended.
    ended = [json.loads(line) for line in err.splitlines() if line.startswith("{")][-1]
    assert (ended["event"], ended["status"]) == ("ended", "interrupted")
