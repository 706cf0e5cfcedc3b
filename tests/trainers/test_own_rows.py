"""General rows that the reference writes: once, for every run with the same settings."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import yaml

from kdharness.harness.config.files import parse_config
from kdharness.harness.config.models import TeacherSpec
from kdharness.harness.config.training import DAEConfig, config_hash
from kdharness.harness.errors import ConfigError, DataError, Interrupted, RunError
from kdharness.harness.paths import Paths
from kdharness.harness.types import Finish, Reply
from kdharness.trainers.data.own_rows import writer_of
from support.commands import CommandLine
from support.remote_code import make_remote
from support.reporters import Listener
from support.training_runs import train

SHOP = {"path": "shop:train", "kind": "domain", "limit": 12}
OWN = {"rows": 6, "max_new_tokens": 12, "prompt": "Tell me about something."}


def config_of(teacher: Path, method: str = "dae", **changes: Any) -> Any:
    values: dict[str, Any] = {
        "method": method,
        "student": str(teacher),
        "data": {"train": SHOP, "max_length": 64, "self_written": OWN},
        "trainer": {"max_steps": 2, "batch_size": 4, "device": "cpu", "learning_rate": 1e-3},
        **changes,
    }
    if method == "dae":
        values["expert"] = str(teacher)
    return parse_config(values)


def rows_of(paths: Paths) -> list[Path]:
    return sorted(paths.rows.glob("*/rows.jsonl"))


def said(reporter: Listener) -> str:
    return next(text for _, text in reporter.said if text.startswith("general rows"))


@pytest.mark.slow
def test_rows_are_written_once_and_shared(tiny_teacher: Path, paths: Paths) -> None:
    config = config_of(tiny_teacher)
    _, first = train(config, paths, "first")
    (file,) = rows_of(paths)
    rows = [json.loads(line) for line in file.read_text("utf-8").splitlines()]
    assert 0 < len(rows) <= 6
    assert all(row["messages"][0]["content"] == OWN["prompt"] for row in rows)
    assert len({row["messages"][1]["content"] for row in rows}) > 1
    note = json.loads(file.with_name("note.json").read_text("utf-8"))
    assert note["reference"] == "tiny-teacher"
    assert (note["rows"], note["kept"], note["temperature"]) == (6, len(rows), 1.0)
    assert "as stored" not in said(first)
    # Another method and another seed of the training: the same rows.
    _, sft = train(config_of(tiny_teacher, "sft", seed=7), paths, "sft")
    assert "as stored" in said(sft)
    assert rows_of(paths) == [file]
    # Written anew, the same text, and the same training after it.
    text = file.read_text("utf-8")
    shutil.rmtree(file.parent)
    _, second = train(config, paths, "second")
    assert file.read_text("utf-8") == text
    losses = [[p["loss"] for _, p in r.points if "loss" in p] for r in (first, second)]
    assert losses[0] == losses[1]
    assert len(losses[0]) == 2


@pytest.mark.slow
def test_a_stopped_writer_leaves_nothing(tiny_teacher: Path, paths: Paths) -> None:
    with pytest.raises(Interrupted):
        train(config_of(tiny_teacher), paths, "stop", reporter=Listener(stop_after_checks=0))
    assert list(paths.rows.glob("*")) == []


@pytest.mark.slow
def test_plan_and_data_show_before_and_after(
    tiny_teacher: Path, paths: Paths, tmp_path: Path, kd: CommandLine
) -> None:
    file = tmp_path / "c.yaml"
    values = config_of(tiny_teacher).model_dump(mode="json", by_alias=True, exclude_unset=True)
    file.write_text(yaml.safe_dump(values), "utf-8")

    def planned() -> dict[str, Any]:
        code, out, _ = kd("plan", str(file), "--format", "json")
        assert code == 0
        return {row["figure"]: row["value"] for row in json.loads(out)}

    before = planned()
    assert "not written yet" in before["note"]
    assert "writes them when the run starts" in kd("data", "show", str(file))[1]
    code, out, _ = kd("check", str(file), "--no-weights")
    assert code == 0
    assert "writes its rows when the run starts" in out
    train(config_of(tiny_teacher), paths, "r")
    after = planned()
    assert "note" not in after
    assert after["FLOPs"] < before["FLOPs"]
    assert "Tell me about something." in kd("data", "show", str(file), "--rows", "20")[1]


@pytest.mark.slow
def test_changed_rows_are_refused(tiny_teacher: Path, paths: Paths) -> None:
    train(config_of(tiny_teacher), paths, "r")
    (file,) = rows_of(paths)
    file.write_text(file.read_text("utf-8").replace("something", "nothing"), "utf-8")
    with pytest.raises(DataError, match="the rows themselves changed") as error:
        train(config_of(tiny_teacher), paths, "s")
    assert error.value.where == str(file.parent)


@pytest.mark.parametrize(
    ("reply", "kind", "message"),
    [
        (Reply("  "), DataError, "answered none of 6 prompts"),
        (Reply(error="too long", finish=Finish.ERROR), RunError, "general row 1: too long"),
    ],
)
def test_a_reference_that_writes_nothing_ends_the_run(
    reply: Reply,
    kind: type[Exception],
    message: str,
    tiny_teacher: Path,
    paths: Paths,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def stream(self: Any, requests: Any) -> Any:
        return enumerate([reply] * len(requests))

    monkeypatch.setattr("kdharness.judges.engines.local.LocalEngine.stream", stream)
    with pytest.raises(kind, match=message):
        train(config_of(tiny_teacher), paths, "r")
    assert list(paths.rows.glob("*")) == []


# ---------------------------------------------------------------- settings


def test_combinations_that_cannot_work_are_refused_by_name(tiny_teacher: Path) -> None:
    both = {"train": ["general:train", SHOP], "self_written": 4}
    with pytest.raises(ConfigError, match=r"data.train has general rows too \(general:train\)"):
        config_of(tiny_teacher, data=both)
    with pytest.raises(ConfigError, match="self_written is for sft and dae"):
        parse_config(
            {
                "method": "kd",
                "student": "m",
                "teacher": "t",
                "data": {"train": SHOP, "self_written": 4},
            }
        )
    served = {"model": "t", "served": "http://localhost:1", "cache": {"k": 20, "tail": "bucket"}}
    with pytest.raises(ConfigError, match="a served reference cannot write rows"):
        config_of(tiny_teacher, reference=served)
    for wrong in ({"rows": 0}, {"temperature": 0}, {"max_new_tokens": 0}, True, "many"):
        with pytest.raises(ConfigError, match="self_written"):
            config_of(tiny_teacher, data={"train": SHOP, "self_written": wrong})


def test_a_number_is_the_number_of_rows_and_none_keeps_a_configs_identity() -> None:
    def made(**data: Any) -> DAEConfig:
        config = parse_config(
            {"method": "dae", "student": "m", "expert": "e", "data": {"train": SHOP, **data}}
        )
        assert isinstance(config, DAEConfig)
        return config

    assert made(self_written=9) == made(self_written={"rows": 9})
    hashes = [config_hash(c) for c in (made(), made(self_written=None), made(self_written=9))]
    assert hashes[0] == hashes[1] != hashes[2]


def test_who_writes(tiny_teacher: Path) -> None:
    dae = config_of(tiny_teacher)
    assert getattr(writer_of(dae, "start"), "model", None) == "start"
    named = config_of(tiny_teacher, reference="r")
    assert getattr(writer_of(named, "start"), "model", None) == "r"
    assert writer_of(dae, None) is None


@pytest.mark.slow
@pytest.mark.parametrize("method", ["sft", "dae"])
def test_a_student_of_its_own_code_writes(method: str, tmp_path: Path, paths: Paths) -> None:
    """What is trusted to train is trusted to write: the default reference is the student."""
    student = {"model": str(make_remote(tmp_path / "own")), "trust_remote_code": True}
    config = config_of(tmp_path / "own", method, student=student)
    if method == "dae":
        config = config.model_copy(update={"expert": TeacherSpec(**student)})
    train(config, paths, "run")
    assert len(rows_of(paths)) == 1
