"""Runs put into the queue, listed, moved and taken out of it by commands."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from kdharness.harness.paths import Paths
from kdharness.harness.runs import queue
from kdharness.harness.store import Store
from support.commands import CommandLine, Result
from support.configs import config_file
from support.tui_home import add_past_run


@pytest.fixture
def kept(monkeypatch: pytest.MonkeyPatch) -> list[Path]:
    """Record when the queue's process would be started."""
    homes: list[Path] = []
    monkeypatch.setattr(queue, "keep", lambda paths: homes.append(paths.home))
    return homes


def waiting(kd: CommandLine) -> list[str]:
    return [row["run"] for row in kd.json("queue") if row["state"] == "queued"]


def trained(tmp_path: Path, name: str) -> str:
    """Write a training's config."""
    return config_file(
        tmp_path, method="sft", name=name, student="org/small", data={"train": "general:train"}
    )


def test_runs_wait_are_moved_and_taken_out(
    kd: CommandLine, paths: Paths, tmp_path: Path, kept: list[Path]
) -> None:
    with Store(paths.store) as store:
        add_past_run(store, "first", "kd", 90, status="running", pid=os.getpid())
        add_past_run(store, "old", "sft", 90, status="stopped")
    assert kd.ok("train", trained(tmp_path, "next"), "--queue") == "next\n"
    code, out, err = kd("resume", "old", "--queue")
    assert (code, out) == (0, "old\n") and "old is number 2 in the queue: it starts when" in err
    scores = ("eval", "--ckpt", "next", "--bench", "heldout", "--name", "scores", "--queue")
    assert kd.ok(*scores) == "scores\n" and len(kept) == 3
    kd.ok("queue")
    assert len(kept) == 4, "listing starts a queue whose process is gone"
    assert [(row["run"], row["state"]) for row in kd.json("queue")] == [
        ("first", "running"),
        ("next", "queued"),
        ("old", "queued"),
        ("scores", "queued"),
    ]
    kd.ok("queue", "move", "scores", "1")
    assert waiting(kd) == ["scores", "next", "old"]
    kd.ok("queue", "move", "scores", "99")
    assert waiting(kd) == ["next", "old", "scores"]
    kd.ok("queue", "remove", "old", "next")
    assert waiting(kd) == ["scores"]
    with Store(paths.store) as store:
        assert {run.id: run.status.value for run in store.runs()}["next"] == "stopped"


def test_the_processes_of_a_queued_training_are_kept(
    kd: CommandLine, paths: Paths, tmp_path: Path, kept: list[Path]
) -> None:
    plan = tmp_path / "two.yaml"
    plan.write_text("num_processes: 2\n", "utf-8")
    kd.ok("train", trained(tmp_path, "a"), "--queue", "--accelerate", str(plan))
    with Store(paths.store) as store:
        run = store.run("a")
    assert run is not None and run.info["accelerate"] == str(plan)
    code, _, err = kd("train", trained(tmp_path, "b"), "--queue", "--accelerate", "gone.yaml")
    assert code == 2 and "gone.yaml" in err and waiting(kd) == ["a"]


def test_what_does_not_fit_is_refused(
    kd: CommandLine, paths: Paths, tmp_path: Path, kept: list[Path]
) -> None:
    with Store(paths.store) as store:
        add_past_run(store, "done", "kd", 90)

    def refused(*args: str) -> Result:
        result = kd(*args)
        assert result[0] != 0 and "Traceback" not in result[2]
        return result

    assert "no home at" in refused("--home", str(tmp_path / "nowhere"), "queue")[2]
    assert not (tmp_path / "nowhere").exists()
    assert "it is empty" in refused("queue", "remove", "done")[2]
    assert "only what can be resumed waits" in refused("resume", "done", "--queue")[2]
    config = trained(tmp_path, "done")
    assert (
        "cannot be combined with --prepare" in refused("train", config, "--queue", "--prepare")[2]
    )
    assert "already exists" in refused("train", config, "--queue")[2]
    kd.ok("train", trained(tmp_path, "a"), "--queue")
    for words in (("remove", "a", "b"), ("move", "b", "1")):
        assert "b is not in the queue" in refused("queue", *words)[2]
    assert waiting(kd) == ["a"], "nothing is taken out where one name is wrong"
