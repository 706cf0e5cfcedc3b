"""Experiments that are run again after something they stand on has changed."""

from __future__ import annotations

import json
import os
import time
from pathlib import Path
from typing import Any

import pytest

from kdharness.harness.experiments.expand import load_sweep
from kdharness.harness.maintenance.records import plan_removal, remove_records
from kdharness.harness.paths import Paths
from kdharness.harness.store import Store
from kdharness.harness.types import Checkpoint
from support.commands import CommandLine
from support.experiments import TRAINER, sweep_file
from support.scored_store import add_checkpoint, add_run


def write_rows(path: Path, words: str) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    rows = [{"prompt": f"{words} {n}?", "completion": f"{words}: {n}."} for n in range(6)]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), "utf-8")
    return path


def steps(base: str, data: str = "rows.jsonl") -> dict[str, Any]:
    """Return two trainings and their scores."""
    train = {"data": {"train": data, "max_length": 96}, "trainer": TRAINER}
    return {
        "one": {"method": "sft", "student": base, **train},
        "two": {"method": "sft", "student": "one", **train},
        "scores": {
            "method": "eval",
            "checkpoints": ["one"],
            "benches": ["shop"],
            "limit": 1,
            "max_new_tokens": 2,
        },
    }


def ends(kd: CommandLine, file: Path) -> tuple[int, dict[str, str], dict[str, str]]:
    """Run an experiment; return its exit code, and status and note by step."""
    code, out, _ = kd("sweep", str(file), "--format", "json")
    rows = json.loads(out)
    return (
        code,
        {row["step"]: row["status"] for row in rows},
        {row["step"]: row["note"] for row in rows},
    )


@pytest.mark.slow
def test_what_was_made_from_an_earlier_step_is_no_result(
    kd: CommandLine, paths: Paths, tiny_teacher: Path, tmp_path: Path
) -> None:
    """The old run of a later step stood beside the new one of the step that it was trained from."""
    rows = write_rows(tmp_path / "rows.jsonl", "first")
    file = sweep_file(tmp_path, steps=steps(str(tiny_teacher)))
    assert ends(kd, file)[:2] == (0, dict.fromkeys(["one", "two", "scores"], "finished"))
    assert kd("rm", "x-one", "--force", "--yes")[0] == 0
    # The same rows give the same weights: what was made from them still is. Its scores are gone.
    _, status, _ = ends(kd, file)
    assert status == {"one": "finished", "two": "done before", "scores": "failed"}
    assert kd("rm", "x-one", "--force", "--yes")[0] == 0
    write_rows(rows, "second")
    code, status, notes = ends(kd, file)
    assert (code, status) == (1, {"one": "finished", "two": "failed", "scores": "failed"})
    for step in ("two", "scores"):
        assert (
            f"earlier x-one, which was made again: remove it (kdharness rm x-{step})" in notes[step]
        )
    assert kd("rm", "x-two", "x-scores", "--yes")[0] == 0
    code, status, notes = ends(kd, file)
    assert (code, status["two"], status["scores"]) == (0, "finished", "finished")
    with Store(paths.store) as store:
        one, two = store.checkpoint("x-one"), store.checkpoint("x-two")
        assert one is not None and two is not None and two.parents == {"student": one.id}
    # Another file with the same name of today's rows.
    later = time.time() + 60
    os.utime(rows, (later, later))
    code, status, notes = ends(kd, file)
    assert code == 0 and set(status.values()) == {"done before"}
    assert notes["one"] == notes["two"] == "rows.jsonl has changed since" and not notes["scores"]


def test_removed_parents_free_their_names(paths: Paths, store: Store) -> None:
    """The next checkpoint of the name got a number, and no step found it."""
    for name in ("one", "two"):
        add_run(store, name)
    add_checkpoint(store, "one")
    add_checkpoint(store, "two", parents={"student": "id-one"})
    plan = plan_removal(paths, store, ["one"])
    assert remove_records(paths, store, plan, force=True) == ["one"]
    left = store.checkpoint("id-one")
    assert left is not None and (left.name, left.path) == ("one (removed)", "")
    assert store.checkpoint("one") is None
    other = Checkpoint(id="new", name="one", method="kd", path="/runs/one/final", created=2.0)
    assert store.add_checkpoint(other).name == "one"
    # The removed one comes back, where the name is taken by now.
    again = Checkpoint(id="id-one", name="one", method="kd", path="/elsewhere", created=3.0)
    assert store.add_checkpoint(again).name == "one-2"


# ---------------------------------------------------------------- varied paths


@pytest.mark.parametrize("key", ["data.train", "one.data.train"])
def test_varied_paths_are_beside_the_experiment(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, key: str
) -> None:
    """A file of the same name in the working directory was trained on, without a word."""
    beside = [write_rows(tmp_path / "sweep" / f"{name}.jsonl", "x") for name in "ab"]
    elsewhere = tmp_path / "elsewhere"
    write_rows(elsewhere / "a.jsonl", "y")
    monkeypatch.chdir(elsewhere)
    only = {"one": steps("base", "a.jsonl")["one"]}
    file = sweep_file(tmp_path / "sweep", steps=only, vary={key: ["a.jsonl", "b.jsonl"]})
    planned: list[Any] = [run.config for run in load_sweep(file)[1]]
    found = [Path(source.path) for config in planned for source in config.data.train]
    assert found == beside


def test_varied_models_are_beside_the_experiment(tmp_path: Path, tiny_teacher: Path) -> None:
    (tmp_path / "models").symlink_to(tiny_teacher.parent, target_is_directory=True)
    only = {"one": steps("base")["one"]}
    vary = {"student": [f"./models/{tiny_teacher.name}", "org/name"]}
    planned: list[Any] = [
        run.config for run in load_sweep(sweep_file(tmp_path, steps=only, vary=vary))[1]
    ]
    assert [config.student.model for config in planned] == [str(tiny_teacher), "org/name"]


def test_varied_values_that_are_no_paths_stay(tmp_path: Path) -> None:
    only = {"one": steps("base")["one"]}
    vary = {"trainer.learning_rate": [1e-3, 1e-4], "trainer.optimizer": ["adamw", "sgd"]}
    sweep, planned = load_sweep(sweep_file(tmp_path, steps=only, vary=vary))
    assert sweep.vary == vary and len(planned) == 4
