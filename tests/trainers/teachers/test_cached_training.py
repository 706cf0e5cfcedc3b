"""Training from caches of hidden states, by the real commands; workers run in this process."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from kdharness.harness.config.files import parse_config
from kdharness.harness.errors import Interrupted
from kdharness.harness.models import hub
from kdharness.harness.paths import Paths
from kdharness.harness.protocols import Job
from kdharness.harness.registry import TRAINERS, resolve
from kdharness.harness.store import Store
from kdharness.harness.worker import work
from kdharness.trainers.teachers import cached
from support.adapters import make_adapter
from support.commands import CommandLine
from support.configs import config_file
from support.hub_server import HubServer
from support.models import make_llama
from support.reporters import Listener

pytestmark = pytest.mark.slow

CACHE = {"kind": "hidden"}
EXACT = {"kind": "hidden", "dtype": "float32"}


def config_of(method: str, teacher: Path, cache: Any, **trainer: Any) -> dict[str, Any]:
    """Return a config with a student of its own and rows that are seen twice."""
    spec = {"model": str(teacher), **({"cache": cache} if cache else {})}
    student = teacher.parent / "student"
    if not student.exists():
        make_llama(student, seed=5, num_hidden_layers=2)
    train: list[dict[str, Any]] = [{"path": "general:train", "limit": 8}]
    values: dict[str, Any] = {
        "method": method,
        "student": str(student),
        "data": {"train": train, "max_length": 96},
        "trainer": {"epochs": 2, "batch_size": 4, "device": "cpu", **trainer},
    }
    if method == "kd":
        values |= {"teacher": spec}
        values["trainer"] |= {"attention_weight": 0}
    else:
        values |= {"expert": spec, "reference": {**spec, "model": str(student)}}
        train.append({"path": "shop:train", "kind": "domain", "limit": 8})
    return values


def curve(kd: CommandLine, run: str, name: str = "loss") -> list[float]:
    with Store(Paths(kd.home).store) as store:
        return [value for _, value in store.curve(run, name)]


def trained(kd: CommandLine, folder: Path, name: str, values: dict[str, Any]) -> str:
    """Train by `train --prepare` and the worker that a scheduler would start; return its log."""
    kd.ok("train", config_file(folder, name=name, **values), "--prepare", "--name", name)
    assert work(Paths(kd.home), name, resume=False) == 0, kd("logs", name)
    with Store(Paths(kd.home).store) as store:
        return "\n".join(event["message"] for event in store.events(name))


def planned(kd: CommandLine, path: str) -> dict[str, float]:
    return {row["figure"]: row["value"] for row in kd.json("plan", path)}


@pytest.mark.parametrize("method", ["kd", "dae"])
def test_later_runs_load_no_teacher(
    method: str, kd: CommandLine, model_folder: Path, tmp_path: Path, monkeypatch: Any
) -> None:
    """Another temperature, divergence and seed: the cache of the first run is complete for all."""
    first = config_of(method, model_folder, CACHE)
    path = config_file(tmp_path, **first)
    before = planned(kd, path)
    log = trained(kd, tmp_path, "first", first)
    folders = list(Paths(kd.home).cache.iterdir())
    assert len(folders) == (1 if method == "kd" else 2)
    assert "MB of hidden states in bfloat16 for 8 rows, 0 already stored" in log

    def load(*_: object, **__: object) -> None:
        raise AssertionError("a teacher was loaded")

    monkeypatch.setattr(cached, "load_frozen", load)
    after = planned(kd, path)
    assert "0 rows processed" in kd.ok("cache", "build", path)
    changed = config_of(method, model_folder, CACHE, temperature=3.0, divergence="js") | {"seed": 7}
    assert "8 already stored" in trained(kd, tmp_path, "second", changed)
    assert len(curve(kd, "second")) == len(curve(kd, "first"))
    assert_plan(method, before, after, folders)


def assert_plan(
    method: str, before: dict[str, float], after: dict[str, float], folders: list[Path]
) -> None:
    """Compare the plan before and after the cache is built with what is on disk."""
    roles = {"kd": ["teacher"], "dae": ["reference", "expert"]}[method]
    data = sum(file.stat().st_size for folder in folders for file in folder.glob("data-*.bin"))
    heads = sum(file.stat().st_size for folder in folders for file in folder.glob("head.*"))
    planned_bytes = sum(after[f"cache of {role}"] for role in roles) * 2**30
    # The plan prints four digits of a GiB.
    assert planned_bytes == pytest.approx(data + heads, abs=len(roles) * 1e5)
    for role in roles:
        assert before[f"cache of {role}"] == after[f"cache of {role}"]
        assert f"memory teacher {role}" in before and f"memory teacher {role}" not in after
        assert before[f"memory head of teacher {role}"] == after[f"memory head of teacher {role}"]
        assert f"parameters {role}" not in after
    assert before["disk"] >= after["disk"] and before["FLOPs"] == after["FLOPs"]


def test_fp32_cache_trains_exactly_as_the_teacher(
    kd: CommandLine, model_folder: Path, tmp_path: Path
) -> None:
    for name, cache in (("online", None), ("cached", EXACT)):
        trained(kd, tmp_path, name, config_of("kd", model_folder, cache, accumulation=2))
    assert curve(kd, "cached") == curve(kd, "online")
    one, two = (
        load_file(kd.home / "runs" / name / "final/model.safetensors")
        for name in ("online", "cached")
    )
    assert all(torch.equal(one[key], two[key]) for key in one)


def test_copied_cache_serves_another_home(
    kd: CommandLine, model_folder: Path, tmp_path: Path, monkeypatch: Any, capsys: Any
) -> None:
    """The teacher is elsewhere there; only its content counts. A damaged copy is refused."""
    path = config_file(tmp_path, **config_of("kd", model_folder, CACHE))
    assert "8 rows processed" in kd.ok("cache", "build", path)
    (folder,) = Paths(kd.home).cache.iterdir()
    there = CommandLine(tmp_path / "there", capsys)
    teacher = tmp_path / "elsewhere" / "model"
    shutil.copytree(model_folder, teacher)
    copy = Paths(there.home).cache / folder.name
    shutil.copytree(folder, copy)
    monkeypatch.setattr(cached, "load_frozen", lambda *_, **__: pytest.fail("loaded"))
    values = config_of("kd", teacher, CACHE, temperature=2.0)
    assert "8 already stored" in trained(there, tmp_path, "run", values)
    (copy / "head.safetensors").unlink()
    code, _, err = there("cache", "build", config_file(tmp_path, **values))
    assert code == 2 and "head.safetensors, the teacher's output head, is missing" in err
    assert "Traceback" not in err and "delete the folder" in err
    code, _, err = there("plan", config_file(tmp_path, **values))
    assert code == 2 and "head.safetensors" in err


def test_copied_cache_of_a_hub_teacher_needs_none_of_its_weights(
    kd: CommandLine, model_folder: Path, tmp_path: Path, monkeypatch: Any, capsys: Any
) -> None:
    """A commit identifies it, so that they are not even downloaded."""
    server = HubServer("org/tiny")
    server.push(model_folder)
    values = config_of("kd", model_folder, CACHE)
    values["teacher"]["model"] = "org/tiny"
    path = config_file(tmp_path, **values)
    try:
        server.use(monkeypatch, tmp_path / "hub-there")
        kd.ok("cache", "build", path)
        assert any(".safetensors" in line for line in server.asked)
        here = CommandLine(tmp_path / "here", capsys)
        shutil.copytree(Paths(kd.home).cache, Paths(here.home).cache)
        server.use(monkeypatch, tmp_path / "hub-here")
        server.asked.clear()
        assert "memory teacher teacher" not in planned(here, path)
        assert "8 already stored" in trained(here, tmp_path, "run", values)
        assert server.asked and not any(".safetensors" in line for line in server.asked)
    finally:
        server.server.shutdown()
        hub.commit_of.cache_clear()


def test_an_adapter_teaches_from_a_cache_as_on_the_students_base(
    model_folder: Path, paths: Paths
) -> None:
    """With LoRA the expert would share the student's base; cached, it is merged and runs once."""
    expert = make_adapter(model_folder, model_folder.parent / "expert")
    losses = []
    for name, cache in (("online", None), ("filling", EXACT), ("filled", EXACT)):
        values = config_of("dae", expert, cache, epochs=1)
        values |= {"student": {"model": str(model_folder), "lora": {"r": 4}}}
        values["reference"]["model"] = str(model_folder)
        listener, folder = Listener(), paths.runs / name
        folder.mkdir(parents=True)
        job = Job(paths, name, folder, listener)
        resolve(TRAINERS, "dae", "method")(parse_config(values), job)
        losses.append([point["loss"] for _, point in listener.points if "loss" in point])
    assert losses[1] == losses[2] == pytest.approx(losses[0], rel=1e-5) and losses[0][0] > 0.01


def test_interrupted_run_resumes_exactly(model_folder: Path, paths: Paths) -> None:
    """It continues from what it stored, and ends bit for bit like an undisturbed one."""
    values = config_of("kd", model_folder, CACHE, batch_size=2)
    config = parse_config(values)
    ends = {}
    for name in ("calm", "hit"):
        home = Paths(paths.home / name)
        folder = home.runs / name
        folder.mkdir(parents=True)
        train = resolve(TRAINERS, "kd", "method")
        if name == "hit":
            with pytest.raises(Interrupted):
                train(config, Job(home, name, folder, Listener(stop_at_step=1)))
            (cache,) = home.cache.iterdir()
            assert 0 < len((cache / "index-0.jsonl").read_text().splitlines()) < 8
        job = Job(home, name, folder, Listener(), resume=name == "hit")
        ends[name] = load_file(train(config, job).folder / "model.safetensors")
    calm, hit = ends.values()
    assert all(torch.equal(calm[key], hit[key]) for key in calm)
    keys = [
        json.loads(line)[0]
        for file in cache.glob("index-*.jsonl")
        for line in file.read_text().splitlines()
    ]
    assert len(keys) == len(set(keys)) == 8
