"""Progress as JSON lines, and none at all, on stderr."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from support.commands import CommandLine
from support.configs import TRAINER, config_file


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
