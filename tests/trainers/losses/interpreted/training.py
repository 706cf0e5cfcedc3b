"""Steps and a short training with `kernels: triton` beside the same with the reference."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor

from kdharness.harness.config.files import parse_config
from kdharness.harness.config.training import KDConfig
from kdharness.harness.paths import Paths
from kdharness.harness.protocols import Job
from kdharness.trainers.attention_hook import install_attention_hook
from kdharness.trainers.kernels import kernels_named
from kdharness.trainers.losses.fused import Mix
from kdharness.trainers.methods.kd import train
from kdharness.trainers.step import Objective, attach_loss, loss_inputs
from kdharness.trainers.teachers.online import OnlineTeacher
from support.configs import kd_config
from support.files import WriteRows
from support.reporters import Listener
from support.training_steps import assert_same, gradients, make_batch, make_model

TEACHERS: dict[str, dict[str, Any]] = {
    "grouped queries": {},
    "other head counts": {"num_attention_heads": 2, "num_key_value_heads": 1, "head_dim": 12},
}


@pytest.mark.parametrize(("side", "checkpointed"), [("left", True), ("right", False)])
@pytest.mark.parametrize("teacher", TEACHERS)
def test_a_step_equals_the_reference(teacher: str, side: str, checkpointed: bool) -> None:
    changes = TEACHERS[teacher]
    frozen = make_model(2, num_hidden_layers=1, **changes)
    batch = make_batch(rows=2, width=12, side=side)
    install_attention_hook(frozen)
    objective = Objective(
        Mix(2.0, kl_weight=0.8, ce_weight=0.2), {0: OnlineTeacher(frozen)}, {0: 0}, 0.8
    )

    def step(name: str) -> tuple[float, dict[str, Tensor]]:
        student = make_model(1, num_hidden_layers=1)
        install_attention_hook(student)
        attach_loss(student)
        if checkpointed:
            student.train()
            student.gradient_checkpointing_enable({"use_reentrant": False})
        method = replace(objective, kernels=kernels_named(name))  # type: ignore[arg-type]
        loss = student(
            input_ids=batch["input_ids"],
            attention_mask=batch["attention_mask"],
            step=loss_inputs(method, batch),
        )["loss"]
        return float(loss.detach()), gradients(student, loss)

    (want, theirs), (got, ours) = step("reference"), step("triton")
    assert got == pytest.approx(want, rel=1e-6)
    assert_same(ours, theirs, 2e-6)


def run(
    paths: Paths, name: str, values: dict[str, Any], rows: list[dict[str, str]], write: WriteRows
) -> tuple[dict[str, Tensor], Listener]:
    """Train in this process; return the final weights and what was said."""
    data = {"train": str(write("rows.jsonl", rows)), "max_length": 64}
    config = parse_config({**values, "data": data})
    assert isinstance(config, KDConfig)
    listener = Listener()
    job = Job(paths=paths, run=name, folder=paths.runs / name, reporter=listener)
    job.folder.mkdir(parents=True)
    return load_file(train(config, job).folder / "model.safetensors"), listener


ROWS = [{"prompt": f"Say {word}", "response": word} for word in ("one", "two")]


def test_a_training_equals_the_reference(
    paths: Paths, tiny_teacher: Path, write_jsonl: WriteRows, launches: list[str]
) -> None:
    base = kd_config(tiny_teacher)
    trainer = {**base["trainer"], "max_steps": 2, "batch_size": 1, "attention_layers": 1}
    weights: dict[str, dict[str, Tensor]] = {}
    for name in ("reference", "triton"):
        values = {**base, "trainer": {**trainer, "kernels": name}}
        weights[name], _ = run(paths, name, values, ROWS, write_jsonl)
        assert bool(launches) == (name == "triton")
    assert launches.count("row_kl") == launches.count("key_gradient") == 2
    assert launches.count("row_loss") == 2
    start = load_file(tiny_teacher / "model.safetensors")
    moved = 0.0
    for key, value in weights["reference"].items():
        assert torch.allclose(weights["triton"][key], value, atol=2e-5, rtol=1e-4), key
        moved = max(moved, float((value - start[key]).abs().max()) if key in start else 0.0)
    assert moved > 1e-2  # so that equal weights are not those before the first step


def test_what_the_reference_computes_is_said_once(
    paths: Paths, tiny_teacher: Path, write_jsonl: WriteRows, launches: list[str]
) -> None:
    base = kd_config(tiny_teacher)
    trainer = {**base["trainer"], "max_steps": 2, "batch_size": 1, "attention_weight": 0.0}
    values = {
        **base,
        "teacher": {"model": str(tiny_teacher), "cache": {"k": 4}},
        "trainer": {**trainer, "kernels": "triton"},
    }
    _, said = run(paths, "cached", values, ROWS, write_jsonl)
    notes = [text for _, text in said.said if "has none for cached distributions" in text]
    assert len(notes) == 1 and "all rows" in notes[0] and launches == []
