"""Trainings with on-policy rows: exact resume, splits of a step, limits, FLOPs, commands."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from safetensors.torch import load_file

from kdharness.harness.config.files import parse_config
from kdharness.harness.errors import ConfigError, Interrupted, RunError
from kdharness.harness.paths import Paths
from kdharness.harness.protocols import Job, Outcome
from kdharness.harness.registry import TRAINERS, resolve
from kdharness.trainers.data.on_policy import is_on_policy
from kdharness.trainers.rollouts import check_on_policy
from kdharness.trainers.tools.measure import count_flops
from support.commands import CommandLine
from support.models import make_llama
from support.on_policy import on_policy_values, rollouts_of
from support.reporters import Listener
from support.training_runs import train


@pytest.fixture(scope="module")
def student(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("models") / "student"
    make_llama(folder, seed=5, num_hidden_layers=2)
    return folder


def weights(folder: Path) -> dict[str, torch.Tensor]:
    (path,) = folder.glob("*model.safetensors")
    return dict(load_file(path))


def same(first: Path, second: Path) -> bool:
    ours, theirs = weights(first), weights(second)
    return set(ours) == set(theirs) and all(torch.equal(ours[k], theirs[k]) for k in ours)


CASES: dict[str, dict[str, Any]] = {
    "kd": {"accumulation": 2, "batch_size": 2, "packing": True},
    "dae with LoRA": {"on_policy": {"share": 1.0, "max_new_tokens": 6, "temperature": 0.7}},
}


@pytest.mark.slow
@pytest.mark.parametrize("name", CASES)
def test_a_resumed_run_equals_the_uninterrupted_one_bit_for_bit(
    name: str, student: Path, tiny_teacher: Path, tmp_path: Path, paths: Paths
) -> None:
    method = name.partition(" ")[0] if name.startswith("dae") else "kd"
    values = on_policy_values(tmp_path, student, tiny_teacher, method, max_steps=4, **CASES[name])
    if "LoRA" in name:
        values["student"]["lora"] = {"r": 4}
    config = parse_config(values)
    calm, steady = train(config, paths, "calm")
    with pytest.raises(Interrupted):
        train(config, paths, "cut", reporter=Listener(stop_at_step=2))
    # What a worker wrote after its last checkpoint before it was killed, in the middle of a line.
    with (paths.run("cut") / "rollouts.jsonl").open("a", encoding="utf-8") as stream:
        stream.write(json.dumps({**rollouts_of(paths, "calm")[-1].as_dict(), "step": 3}))
    cut, resumed = train(config, paths, "cut", resume=True)
    assert same(calm, cut)
    assert rollouts_of(paths, "calm") == rollouts_of(paths, "cut")
    clock = ("tokens_per_second", "memory_gb")
    ours, theirs = (
        {step: {k: v for k, v in p.items() if k not in clock} for step, p in listener.points if p}
        for listener in (steady, resumed)
    )
    assert theirs and all(ours[step] == point for step, point in theirs.items())
    # Which rows they were is known without the run.
    share = values["trainer"]["on_policy"]["share"]
    assert all(is_on_policy(42, r.step, r.row, share) for r in rollouts_of(paths, "cut"))


@pytest.mark.slow
def test_the_gradient_does_not_depend_on_how_a_step_is_split(
    student: Path, tiny_teacher: Path, tmp_path: Path, paths: Paths
) -> None:
    """Labelled positions are counted after sampling; other trainers counted the data's answers.

    Nor on checkpointing, which generating must leave as it was.
    """
    found = {}
    for size, accumulation in ((4, 1), (1, 4)):
        values = on_policy_values(
            tmp_path,
            student,
            tiny_teacher,
            batch_size=size,
            accumulation=accumulation,
            length_groups="step",
            max_steps=3,
            optimizer="sgd",
            gradient_checkpointing=size == 1,
        )
        found[size] = weights(train(parse_config(values), paths, f"split-{size}")[0])
    first, second = (rollouts_of(paths, f"split-{size}") for size in (4, 1))
    assert {(r.step, r.row, r.text) for r in first} == {(r.step, r.row, r.text) for r in second}
    start = weights(student)
    for key, value in found[4].items():
        assert torch.allclose(value, found[1][key], atol=2e-6)
    assert any(not torch.equal(start[key], found[4][key]) for key in start)


@pytest.mark.slow
def test_a_limit_ends_the_run_and_its_checkpoint_can_be_resumed(
    student: Path, tiny_teacher: Path, tmp_path: Path, paths: Paths
) -> None:
    own = {"share": 1.0, "max_new_tokens": 4, "stop_window": 2, "min_ended": 0.9}
    values = on_policy_values(tmp_path, student, tiny_teacher, max_steps=5, on_policy=own)
    config = parse_config(values)
    with pytest.raises(RunError, match=r"in the last 2 steps only .*; the limit is 0.9") as caught:
        train(config, paths, "r")
    assert caught.value.where == "trainer.on_policy.min_ended"
    assert "kdharness rollouts RUN" in str(caught.value.hint)
    assert (paths.run("r") / "checkpoint-2" / "sealed.json").exists()
    # The user goes on: a new window, so two more steps.
    with pytest.raises(RunError, match="in the last 2 steps"):
        train(config, paths, "r", resume=True)
    assert max(r.step for r in rollouts_of(paths, "r")) == 4
    # At the last step there is nothing left to stop.
    folder, listener = train(config, paths, "r", resume=True)
    assert folder.name == "final" and not any("stopped" in text for _, text in listener.said)
    calm = parse_config(
        {**values, "trainer": {**values["trainer"], "on_policy": {**own, "stop_window": 0}}}
    )
    assert same(train(calm, paths, "calm")[0], folder)


def outcome_of(config: Any, paths: Paths, name: str) -> Outcome:
    folder = paths.run(name)
    folder.mkdir(parents=True)
    job = Job(paths, name, folder, Listener())
    outcome: Outcome = resolve(TRAINERS, config.method, "method")(config, job)
    return outcome


@pytest.mark.slow
def test_flops_count_what_was_sampled_and_a_plan_is_an_upper_bound(
    student: Path,
    tiny_teacher: Path,
    tmp_path: Path,
    kd: CommandLine,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    paths = Paths(kd.home)
    # The checks before the first step run both models too, on a few rows.
    monkeypatch.setattr("kdharness.trainers.loop.check_run", lambda setting: None)
    own = {"share": 0.5, "max_new_tokens": 12, "batch_size": 1}
    values = on_policy_values(tmp_path, student, tiny_teacher, "dae", max_steps=4, on_policy=own)
    config = parse_config(values)
    outcomes: list[Outcome] = []
    counted = count_flops(lambda: outcomes.append(outcome_of(config, paths, "r")))
    info, sampled = outcomes[0].info, rollouts_of(paths, "r")
    assert 0.95 < counted / info["flops"] < 1.05
    assert info["sampled"] == sum(rollout.tokens for rollout in sampled) > 0
    file = tmp_path / "c.yaml"
    file.write_text(yaml.safe_dump(values), "utf-8")
    rows = {row["figure"]: row for row in kd.json("plan", str(file))}
    assert info["sampled"] <= rows["tokens sampled"]["value"] == 12 * len(sampled)
    assert info["tokens"] <= rows["tokens"]["value"]
    assert info["flops"] <= rows["FLOPs"]["value"]
    assert "upper bounds" in rows["note"]["value"]
    values["trainer"]["on_policy"] = None
    file.write_text(yaml.safe_dump(values), "utf-8")
    plain = {row["figure"]: row["value"] for row in kd.json("plan", str(file))}
    assert "tokens sampled" not in plain and plain["FLOPs"] < rows["FLOPs"]["value"]


def test_rows_without_room_keep_the_answers_of_the_data(
    student: Path, tiny_teacher: Path, tmp_path: Path, paths: Paths
) -> None:
    values = on_policy_values(
        tmp_path,
        student,
        tiny_teacher,
        max_steps=1,
        attention_weight=0,
        on_policy={"share": 1.0, "max_new_tokens": 500},
    )
    values["data"]["max_length"] = 24
    folder, listener = train(parse_config(values), paths, "r")
    sampled = rollouts_of(paths, "r")
    assert sampled and all(0 < r.tokens <= 24 - r.prompt_tokens for r in sampled)
    assert all(r.ended or r.tokens == 24 - r.prompt_tokens for r in sampled)
    note = next(text for _, text in listener.said if text.startswith("on-policy"))
    assert "100% of rows" in note and "local" in note
    assert folder.exists()


@pytest.mark.parametrize("name", ["ACCELERATE_USE_FSDP", "ACCELERATE_USE_DEEPSPEED"])
def test_sharded_students_are_refused_unless_a_server_samples(name: str, tmp_path: Path) -> None:
    values = on_policy_values(tmp_path, tmp_path, tmp_path)
    with pytest.raises(ConfigError, match="no process can sample from it alone") as caught:
        check_on_policy(parse_config(values), {name: "true"})
    assert caught.value.where == "trainer.on_policy.engine"
    values["trainer"]["on_policy"]["engine"] = "http://127.0.0.1:9/v1"
    check_on_policy(parse_config(values), {name: "true"})


@pytest.mark.slow
def test_the_commands_train_and_show_the_answers(
    student: Path, tiny_teacher: Path, tmp_path: Path, kd: CommandLine
) -> None:
    values = on_policy_values(tmp_path, student, tiny_teacher, "dae", max_steps=3)
    values["name"] = "onp"
    file = tmp_path / "c.yaml"
    file.write_text(yaml.safe_dump(values), "utf-8")
    assert kd.ok("train", str(file)).strip() == "onp"
    rows = kd.json("rollouts", "onp", "--all")
    paths = Paths(kd.home)
    assert rows == [rollout.as_dict() for rollout in rollouts_of(paths, "onp")]
    assert {row["kind"] for row in rows} == {"general", "domain"}
    assert kd.json("rollouts", "onp", "-n", "1") == rows[-1:]
    domain = kd.json("rollouts", "onp", "--all", "--kind", "domain", "--step", "2")
    assert domain == [row for row in rows if row["kind"] == "domain" and row["step"] == 2]
    text = kd.ok("rollouts", "onp", "--row", str(rows[0]["row"]), "--all")
    assert f"step {rows[0]['step']} · row {rows[0]['row']} ({rows[0]['kind']}" in text
    shown = kd.json("show", "onp")
    assert {"rollout_kl", "rollout_length", "rollout_ended", "rollout_distinct"} <= set(
        shown["last"]
    )
    assert shown["info"]["sampled"] == sum(row["tokens"] for row in rows)
