"""Compare `kdharness plan` with the measured memory and FLOPs of small models."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from transformers.optimization import Adafactor

from kdharness.harness import cli
from kdharness.harness.config.files import parse_config
from kdharness.harness.config.models import LoraSpec
from kdharness.harness.config.trainer import TrainerSpec
from kdharness.harness.errors import ConfigError
from kdharness.harness.models import loading
from kdharness.harness.models.lm_head import causal_model
from kdharness.harness.models.loading import load_model
from kdharness.harness.models.lora import with_adapter
from kdharness.harness.paths import Paths
from kdharness.harness.runs.estimate import estimate, model_size
from kdharness.harness.runs.flops import step_flops
from kdharness.harness.runs.memory import lora_parameters, plan_memory
from kdharness.harness.runs.teachers import CachedRows
from kdharness.trainers.attention_hook import install_attention_hook
from kdharness.trainers.losses.fused import Mix, labelled_positions
from kdharness.trainers.precision import autocast, stochastic_optimizer
from kdharness.trainers.step import attach_loss
from kdharness.trainers.tools.measure import count_flops
from kdharness.trainers.tools.selfcheck import (
    Models,
    fused_step,
    random_batch,
    tiny_model,
)
from kdharness.trainers.tools.selfcheck import with_adapter as adapted_model
from support.fast_products import peak_with_fast_products
from support.training_steps import make_model

SHAPES: dict[str, dict[str, Any]] = {
    "narrow and deep": {"num_hidden_layers": 8, "hidden_size": 64, "intermediate_size": 176},
    "wide": {"num_hidden_layers": 3, "hidden_size": 256, "intermediate_size": 704},
    "small head": {"num_hidden_layers": 4, "vocab_size": 256},
}


def save_with_tokenizer(model: Any, folder: Path) -> str:
    from support.models import make_tokenizer

    model.save_pretrained(folder)
    make_tokenizer(folder)
    return str(folder)


def planned(size: Any, width: int, lora: dict[str, Any] | None = None, **trainer: Any) -> Any:
    config = parse_config(
        {
            "method": "kd",
            "student": {"model": "a/b", "lora": lora},
            "teacher": "a/b",
            "data": {"train": "x"},
            "trainer": {"batch_size": 4, "device": "cpu", **trainer},
        }
    )
    memory, trained = plan_memory(
        config, size, {"teacher": size}, width, engine="single", processes=1, on_cpu=True
    )
    lora_spec = config.student.lora
    return memory, trained, config.trainer.precision_on(lora=lora_spec is not None, has_bf16=False)


LORAS: tuple[dict[str, Any] | None, ...] = (None, {"r": 8}, {"r": 8, "dropout": 0.1})
STEPS = [
    (shape, lora, precision, checkpointing)
    for shape in SHAPES
    for lora in LORAS
    for precision in ("fp32", "mixed", "bf16-sr")
    for checkpointing in (False, True)
    # Every combination on one shape; what depends on the shape on the others.
    if shape == "wide" or (precision != "bf16-sr" and lora is not LORAS[2])
]


@pytest.mark.slow
@pytest.mark.parametrize(("shape", "lora", "precision", "checkpointing"), STEPS, ids=str)
def test_memory_of_a_kd_step(
    shape: str, lora: dict[str, Any] | None, precision: str, checkpointing: bool, tmp_path: Path
) -> None:
    """Everything a step of two micro-batches makes: gradients, activations, logits, q and k."""
    if lora and precision == "bf16-sr":
        precision = "bf16"
    width, settings = 128, {"vocab_size": 2048, **SHAPES[shape]}
    student, teacher = tiny_model(1, **settings), tiny_model(2, **settings).requires_grad_(False)
    size = model_size(save_with_tokenizer(student, tmp_path / "m"), Paths(tmp_path))
    assert size.total == sum(p.numel() for p in student.parameters())
    memory, trained, chosen = planned(
        size, width, lora, precision=precision, gradient_checkpointing=checkpointing
    )
    student = student.to(getattr(torch, chosen.weights))
    if lora:
        spec = LoraSpec(**lora)
        student = with_adapter(student, spec, "", fp32=chosen.trained == "float32")
    causal = causal_model(student)
    install_attention_hook(causal)
    install_attention_hook(teacher)
    attach_loss(student)
    student.train()
    if checkpointing:
        causal.gradient_checkpointing_enable({"use_reentrant": False})
    batch = random_batch(settings["vocab_size"], 4, width)
    layers = {i: i for i in range(size.layers)}
    models = Models(causal, [teacher], batch, layers)

    def work() -> None:
        student.zero_grad(set_to_none=True)
        for _ in range(2):
            with autocast(chosen, "cpu"):
                losses = [fused_step(models, "kd", Mix(), 1.0)]
            losses.pop().backward()

    real = peak_with_fast_products(work, precision)
    held = sum(p.nbytes for p in student.parameters())
    assert memory["weights"] == pytest.approx(held, rel=0.001)
    assert trained == sum(p.numel() for p in student.parameters() if p.requires_grad)
    made = sum(
        memory.get(name, 0.0)
        for name in ("gradients", "activations", "logits", "attention", "bf16 copies")
    )
    assert made == pytest.approx(real, rel=0.1), memory


OPTIMIZERS: dict[str, Any] = {
    "adamw": lambda values, spec: torch.optim.AdamW(values, fused=True),
    "sgd": lambda values, spec: torch.optim.SGD(values, lr=spec.learning_rate),
    "adafactor": lambda values, spec: Adafactor(values),
}


@pytest.mark.slow
@pytest.mark.parametrize(
    ("optimizer", "precision"),
    [
        *((name, precision) for name in OPTIMIZERS for precision in ("fp32", "mixed", "bf16")),
        ("adamw", "bf16-sr"),
        ("adamw_8bit", "bf16-sr"),
    ],
)
def test_memory_of_an_optimizer(optimizer: str, precision: str, tmp_path: Path) -> None:
    model = tiny_model(1)
    size = model_size(save_with_tokenizer(model, tmp_path / "m"), Paths(tmp_path))
    memory, _, chosen = planned(size, 64, precision=precision, optimizer=optimizer)
    model = model.to(getattr(torch, chosen.trained))
    spec = TrainerSpec(precision=precision, optimizer=optimizer)
    if chosen.stochastic:
        kind, options = stochastic_optimizer(spec, 1)
        made = kind(model.parameters(), **options)
    else:
        made = OPTIMIZERS[optimizer](list(model.parameters()), spec)
    for value in model.parameters():
        value.grad = torch.ones_like(value)
    made.step()
    parts = [part for state in made.state.values() for part in state.values()]
    tensors = [part for part in parts if isinstance(part, torch.Tensor)]
    real = sum(flat.nbytes for part in tensors for flat in flattened(part))
    if optimizer == "adafactor":
        # One value per row and column of a matrix, which is little in every model.
        assert real <= memory["optimizer"] <= memory["gradients"] / 10
    else:
        assert memory["optimizer"] == pytest.approx(real, rel=0.05, abs=2000)


def flattened(value: torch.Tensor) -> list[torch.Tensor]:
    """Return the plain tensors that a tensor subclass is made of."""
    if not hasattr(value, "__tensor_flatten__"):
        return [value]
    names, _ = value.__tensor_flatten__()
    return [getattr(value, name) for name in names]


def test_planned_parameters_and_flops_match_the_measured_ones(tmp_path: Path) -> None:
    student = tiny_model(1)
    size = model_size(save_with_tokenizer(student, tmp_path / "m"), Paths(tmp_path))
    pruned = model_size(str(tmp_path / "m"), Paths(tmp_path), keep_layers=2)
    assert pruned.total < size.total and pruned.layers == 2
    attach_loss(student)
    teachers = [tiny_model(2), tiny_model(3)]
    models = Models(student, teachers, random_batch(4096), {})
    labelled = int(labelled_positions(models.batch["labels"]).sum())
    real = count_flops(lambda: fused_step(models, "dae", Mix(), 0.0).backward())
    planned = step_flops(
        size, size, tokens=4 * 96, labelled=labelled, width=96, lora=False, checkpointing=False
    )
    assert planned == pytest.approx(real, rel=0.05)
    adapted = adapted_model(tiny_model(4))
    adapter = sum(p.numel() for n, p in adapted.named_parameters() if "lora_" in n)
    assert lora_parameters(size, LoraSpec(r=8)) == adapter


def test_checkpointing_and_sharding_save_what_they_should(tmp_path: Path) -> None:
    size = model_size(save_with_tokenizer(tiny_model(1), tmp_path / "m"), Paths(tmp_path))
    whole = planned(size, 100)[0]["activations"]
    assert planned(size, 100, gradient_checkpointing=True)[0]["activations"] < whole / 2
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
    # On a GPU with bf16: fp32 weights, gradients and two moments, 16 bytes a parameter.
    trained = sum(single[name] for name in ("weights", "gradients", "optimizer"))
    assert trained == 16 * size.total and single["teacher teacher"] == 2 * size.total


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


ROWS = {"width": 64, "steps": 1, "tokens": 100, "labelled": 50, "padding_share": 0.0}


@pytest.mark.parametrize(
    ("device", "found", "unit"), [("auto", "mps", 4), ("mps", "mps", 4), ("cuda", "cpu", 2)]
)
def test_planned_precision_is_that_of_the_training(
    device: str, found: str, unit: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """An Apple GPU, or an older one, trains in fp32: not every accelerator has bf16."""
    monkeypatch.setattr(loading, "pick_device", lambda: found)
    folder = save_with_tokenizer(tiny_model(1), tmp_path / "m")
    lora, trainer = {"r": 8}, {"device": device}
    values = {"method": "sft", "student": {"model": folder, "lora": lora}, "data": {"train": "x"}}
    plan = estimate(parse_config({**values, "trainer": trainer}), Paths(tmp_path), ROWS)
    size = model_size(folder, Paths(tmp_path))
    assert plan.memory["weights"] == unit * size.total + 4 * lora_parameters(size, LoraSpec(r=8))


def test_teachers_on_the_students_base_cost_their_adapters(tmp_path: Path) -> None:
    base = save_with_tokenizer(tiny_model(1), tmp_path / "base")
    other = save_with_tokenizer(tiny_model(2), tmp_path / "other")
    adapter = with_adapter(load_model(base, Paths(tmp_path)), LoraSpec(r=6), base)
    adapter.save_pretrained(tmp_path / "adapter")

    def teacher_bytes(expert: str, **options: str) -> float:
        config = parse_config(
            {
                "method": "dae",
                "student": {"model": base, "lora": {"r": 8}},
                "expert": {"model": expert, **options},
                "data": {"train": [{"path": "x"}, {"path": "y", "kind": "domain"}]},
            }
        )
        return estimate(config, Paths(tmp_path), ROWS).memory["teacher expert"]

    size = model_size(base, Paths(tmp_path))
    assert teacher_bytes(base) == 0
    assert teacher_bytes(str(tmp_path / "adapter")) == 4 * lora_parameters(size, LoraSpec(r=6))
    assert teacher_bytes(other) == 4 * size.total
    # A precision of its own needs weights of its own.
    assert teacher_bytes(base, dtype="float32") == 0
    assert teacher_bytes(base, dtype="bfloat16") == 2 * size.total


@pytest.mark.parametrize("cache", [{"k": 16}, {"kind": "hidden"}], ids=["top-k", "hidden"])
def test_a_cached_teacher_is_planned_while_a_row_is_missing(
    cache: dict[str, Any], tmp_path: Path
) -> None:
    """It was never planned: a run that had to fill the cache loaded it all the same."""
    teacher = save_with_tokenizer(tiny_model(1), tmp_path / "t")
    student = save_with_tokenizer(tiny_model(2, num_hidden_layers=1), tmp_path / "s")
    size, hidden = model_size(teacher, Paths(tmp_path)), "kind" in cache
    values: dict[str, Any] = {
        "method": "kd",
        "student": student,
        "teacher": {"model": teacher, "cache": cache},
        "data": {"train": "x"},
        "trainer": {"attention_weight": 0, "device": "cpu"},
    }

    def plan(missing: int) -> Any:
        rows = {**ROWS, "cached": {None: CachedRows(50, 20, missing)}}
        return estimate(parse_config(values), Paths(tmp_path), rows, engine="fsdp2", processes=2)

    each = 2 * size.hidden if hidden else 16 * 8 + 4
    head = 4.0 * size.vocab * size.hidden if hidden else 0.0
    full, part, none = plan(0), plan(5), plan(20)
    for found in (full, part, none):
        assert found.caches == {"teacher": 20 * each + head}
        assert found.memory.get("head of teacher teacher", 0) == head
    # It is not sharded, and only what is missing is written.
    assert "teacher teacher" not in full.memory
    assert part.memory["teacher teacher"] == none.memory["teacher teacher"] == 4 * size.total
    assert (part.disk, none.disk) == (full.disk + 5 * each, full.disk + 20 * each + head)
    assert "teacher" in none.parameters and "teacher" not in full.parameters
    # A cached teacher's own forward is not counted, its head is.
    values["teacher"]["cache"] = {"tail": "bucket"}
    assert none.flops == full.flops == pytest.approx(plan(0).flops + head / 4 * 2 * 50)
    values["teacher"]["served"] = "http://there/v1"
    assert "teacher teacher" not in plan(20).memory


@pytest.mark.parametrize("family", ["llama", "phi3", "gpt_neox"])
@pytest.mark.parametrize(
    "targets", ["all-linear", r".*\.layers\.[01]\..*proj", ["o_proj", "down_proj"], ["dense"]]
)
def test_adapter_weights_are_counted_as_peft_makes_them(
    family: str, targets: str | list[str], tmp_path: Path
) -> None:
    model = make_model(1, family)
    size = model_size(save_with_tokenizer(model, tmp_path / "m"), Paths(tmp_path))
    lora = LoraSpec(r=3, target_modules=targets)
    try:
        adapted = with_adapter(model, lora, "")
    except ConfigError:
        assert lora_parameters(size, lora) == 0
    else:
        made = sum(p.numel() for p in adapted.parameters() if p.requires_grad)
        assert lora_parameters(size, lora) == made
