"""Compare `kdharness plan` with the measured memory and FLOPs of small models."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import yaml

from kdharness.harness import cli
from kdharness.harness.config.files import parse_config
from kdharness.harness.paths import Paths
from kdharness.harness.runs.estimate import (
    activation_floats,
    estimate,
    lora_parameters,
    model_size,
    plan_memory,
    step_flops,
)
from kdharness.trainers.attention_hook import install_attention_hook
from kdharness.trainers.losses.fused import Mix, labelled_positions
from kdharness.trainers.tools.measure import count_flops, peak_bytes
from kdharness.trainers.tools.selfcheck import (
    Models,
    fused_step,
    random_batch,
    tiny_model,
    with_adapter,
)
from kdharness.trainers.trainer import attach_loss

SHAPES: dict[str, dict[str, Any]] = {
    "narrow and deep": {"num_hidden_layers": 8, "hidden_size": 64, "intermediate_size": 176},
    "wide": {"num_hidden_layers": 3, "hidden_size": 256, "intermediate_size": 704},
    "small head": {"num_hidden_layers": 4, "vocab_size": 512},
}


def save_with_tokenizer(model: Any, folder: Path) -> str:
    from support.models import make_tokenizer

    model.save_pretrained(folder)
    make_tokenizer(folder)
    return str(folder)


@pytest.mark.parametrize("checkpointing", [False, True])
@pytest.mark.parametrize("shape", list(SHAPES))
@pytest.mark.parametrize("width", [64, 256])
def test_planned_memory_of_a_kd_step_matches_the_measured_peak(
    shape: str, width: int, checkpointing: bool, tmp_path: Path
) -> None:
    """Peak memory of a step of two micro-batches: gradients, activations, logits, q and k."""
    settings = {"vocab_size": 4096, **SHAPES[shape]}
    student, teacher = tiny_model(1, **settings), tiny_model(2, **settings).requires_grad_(False)
    size = model_size(save_with_tokenizer(student, tmp_path / "m"), Paths(tmp_path))
    assert size.total == sum(p.numel() for p in student.parameters())
    install_attention_hook(student)
    install_attention_hook(teacher)
    attach_loss(student)
    if checkpointing:
        student.gradient_checkpointing_enable({"use_reentrant": False})
        student.train()
    batch = random_batch(settings["vocab_size"], 4, width)
    layers = {i: i for i in range(size.layers)}
    models = Models(student, [teacher], batch, layers)

    def training_step() -> None:
        student.zero_grad(set_to_none=True)
        for _ in range(2):
            fused_step(models, "kd", Mix(), 1.0).backward()

    measured = peak_bytes(training_step)
    config = parse_config(
        {
            "method": "kd",
            "student": "a/b",
            "teacher": "a/b",
            "data": {"train": "x"},
            "trainer": {"batch_size": 4, "gradient_checkpointing": checkpointing, "device": "cpu"},
        }
    )
    memory, trained = plan_memory(
        config, size, {"teacher": size}, width, engine="single", processes=1, on_cpu=True
    )
    assert trained == size.total
    planned = sum(memory[name] for name in ("gradients", "activations", "logits", "attention"))
    assert planned == pytest.approx(measured, rel=0.35), memory


def test_planned_parameters_and_flops_match_the_measured_ones(tmp_path: Path) -> None:
    student = tiny_model(1)
    size = model_size(save_with_tokenizer(student, tmp_path / "m"), Paths(tmp_path))
    pruned = model_size(str(tmp_path / "m"), Paths(tmp_path), keep_layers=2)
    assert pruned.total < size.total and pruned.layers == 2
    attach_loss(student)
    teachers = [tiny_model(2), tiny_model(3)]
    models = Models(student, teachers, random_batch(4096), {})
    labelled = int(labelled_positions(models.batch["labels"]).sum())
    measured = count_flops(lambda: fused_step(models, "dae", Mix(), 0.0).backward())
    planned = step_flops(
        size, size, tokens=4 * 96, labelled=labelled, width=96, lora=False, checkpointing=False
    )
    assert planned == pytest.approx(measured, rel=0.05)
    adapted_model = with_adapter(tiny_model(4))
    adapter_parameters = sum(p.numel() for n, p in adapted_model.named_parameters() if "lora_" in n)
    assert lora_parameters(size, 8) == adapter_parameters


def test_checkpointing_and_sharding_reduce_planned_memory(tmp_path: Path) -> None:
    size = model_size(save_with_tokenizer(tiny_model(1), tmp_path / "m"), Paths(tmp_path))
    uncheckpointed = activation_floats(size, 100, checkpointing=False)
    assert activation_floats(size, 100, checkpointing=True) < uncheckpointed / 2
    config = parse_config(
        {"method": "kd", "student": "a/b", "teacher": "a/b", "data": {"train": "x"}}
    )

    def memory(engine: str, processes: int) -> dict[str, float]:
        return plan_memory(
            config, size, {"teacher": size}, 64, engine=engine, processes=processes, on_cpu=False
        )[0]

    single, ddp, fsdp = memory("single", 1), memory("ddp", 4), memory("fsdp2", 4)
    assert single == ddp
    for part in ("weights", "gradients", "optimizer", "teacher teacher"):
        assert fsdp[part] == single[part] / 4
    assert fsdp["activations"] == single["activations"]


def test_moe_flops_count_only_the_active_experts(tmp_path: Path) -> None:
    from kdharness.trainers.students.mixture import mix_models

    mixture = mix_models([tiny_model(i) for i in range(4)])
    size = model_size(save_with_tokenizer(mixture, tmp_path / "moe"), Paths(tmp_path))
    assert size.total == sum(p.numel() for p in mixture.parameters())
    experts = sum(p.numel() for n, p in mixture.named_parameters() if ".experts." in n)
    embeddings = 2 * 4096 * 128
    assert size.body == size.total - embeddings - experts // 2


@pytest.mark.slow
def test_plan_command(
    tiny_teacher: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    values = {
        "method": "dae",
        "student": {"model": str(tiny_teacher), "lora": {"r": 4}},
        "expert": str(tiny_teacher),
        "data": {
            "train": [
                {"path": "general:train", "limit": 8},
                {"path": "shop:train", "kind": "domain", "limit": 8},
            ]
        },
        "trainer": {"max_steps": 5, "batch_size": 2},
    }
    path = tmp_path / "c.yaml"
    path.write_text(yaml.safe_dump(values), "utf-8")
    home = ["--home", str(tmp_path / "home")]
    assert cli.run([*home, "plan", str(path), "--tflops", "0.5", "--format", "json"]) == 0
    rows = {row["figure"]: row["value"] for row in json.loads(capsys.readouterr().out)}
    assert rows["steps"] == 5
    assert rows["parameters trained"] < rows["parameters student"]
    assert rows["time"] == pytest.approx(rows["FLOPs"] / 0.5e12, abs=0.06)
    assert estimate is not None
    bad = tmp_path / "eval.yaml"
    bad.write_text("method: eval\ncheckpoints: [x]\n", "utf-8")
    assert cli.run([*home, "plan", str(bad)]) == 2
