"""`kdharness selfcheck`: the fused losses against the reference, on the user's own models.

For each method: relative error of loss and gradient, FLOPs over the minimum, peak bytes over the
reference step's, tokens per second. Without a config it runs on tiny random models.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor
from transformers import LlamaConfig, LlamaForCausalLM

from kdharness.harness.config.models import TeacherSpec
from kdharness.harness.config.training import (
    AnyConfig,
    DAEConfig,
    KDConfig,
    SFTConfig,
    teacher_specs,
)
from kdharness.harness.errors import ConfigError
from kdharness.harness.models.lm_head import causal_model
from kdharness.harness.paths import Paths
from kdharness.harness.types import IGNORE_INDEX
from kdharness.trainers.attention_hook import install_attention_hook
from kdharness.trainers.data.batches import Collator
from kdharness.trainers.flops import attention_loss_flops, floor_flops, shape_of
from kdharness.trainers.kernels import REFERENCE, Kernels, check_kernels, kernels_named
from kdharness.trainers.loop import prepare_setting
from kdharness.trainers.losses.fused import Mix, labelled_positions
from kdharness.trainers.losses.reference import reference_dae, reference_kd, reference_sft
from kdharness.trainers.methods.kd import attention_layers
from kdharness.trainers.step import Objective, attach_loss, loss_inputs
from kdharness.trainers.teachers.build import load_frozen, make_mix, parent_of
from kdharness.trainers.teachers.online import OnlineTeacher
from kdharness.trainers.teachers.placement import beside_student
from kdharness.trainers.tools.measure import count_flops, peak_bytes, seconds

if TYPE_CHECKING:
    from transformers import PreTrainedModel

LOSS_TOLERANCE, GRAD_TOLERANCE, FLOPS_TOLERANCE = 1e-4, 1e-3, 1.25
ROWS = 4


@dataclass(frozen=True)
class Case:
    """One method's measurements; `note` says what is out of tolerance, or is empty."""

    method: str
    loss_rel_error: float
    grad_rel_error: float
    flops_over_floor: float
    peak_bytes_over_plain: float
    tokens_per_second: float
    note: str = ""


@dataclass
class Models:
    """The models and the batch that a check runs on, and what computes the fused losses."""

    student: Any
    teachers: list[Any]
    batch: dict[str, Tensor]
    layers: dict[int, int]
    kernels: Kernels = REFERENCE


def fused_step(
    models: Models, method: str, mix: Mix, attention_weight: float, block: int = 64
) -> Tensor:
    """Return the loss of one full fused step, teachers included."""
    batch = models.batch
    count = {"sft": 0, "kd": 1}.get(method, len(models.teachers))
    teachers = dict(enumerate(OnlineTeacher(model) for model in models.teachers[:count]))
    layers = models.layers if method == "kd" else {}
    objective = Objective(mix, teachers, layers, attention_weight, block, models.kernels)
    step = loss_inputs(objective, batch)
    loss: Tensor = models.student(
        input_ids=batch["input_ids"], attention_mask=batch["attention_mask"], step=step
    )["loss"]
    return loss


def plain_step(models: Models, method: str, mix: Mix, attention_weight: float) -> Tensor:
    """Return the same loss from the reference implementation."""
    student, batch = models.student, models.batch
    ce = reference_sft(student, batch) if mix.ce_weight else torch.zeros(())
    if method == "sft":
        return ce
    if method == "dae":
        first, second = models.teachers
        kl = reference_dae(student, first, second, batch, temperature=mix.temperature)
    else:
        kl = reference_kd(
            student,
            models.teachers[0],
            batch,
            models.layers if attention_weight else {},
            temperature=mix.temperature,
            attention_weight=attention_weight / (mix.kl_weight or 1.0),
        )
    return mix.kl_weight * kl + mix.ce_weight * ce


def gradients(model: PreTrainedModel, loss: Tensor) -> Tensor:
    """Return all gradients of trained weights as one vector."""
    model.zero_grad()
    loss.backward()
    return torch.cat([p.grad.flatten() for p in model.parameters() if p.grad is not None])


def check(models: Models, method: str, mix: Mix, attention_weight: float) -> Case:
    """Measure one method on these models."""
    student = models.student

    def fused() -> Tensor:
        return fused_step(models, method, mix, attention_weight)

    def plain() -> Tensor:
        return plain_step(models, method, mix, attention_weight)

    def backward(step: Callable[[], Tensor]) -> Callable[[], None]:
        def work() -> None:
            student.zero_grad(set_to_none=True)
            step().backward()

        return work

    want, got = plain(), fused()
    loss_error = abs(float(got.detach() - want.detach())) / max(abs(float(want.detach())), 1e-12)
    theirs, ours = gradients(student, want), gradients(student, got)
    grad_error = float((ours - theirs).norm() / theirs.norm().clamp(min=1e-30))
    del ours, theirs, want, got
    peak = peak_bytes(backward(fused)) / max(peak_bytes(backward(plain)), 1)
    flops = count_flops(backward(fused))
    batch = models.batch
    rows, width = batch["input_ids"].shape
    labelled = int(labelled_positions(batch["labels"]).sum())
    lora = hasattr(student, "peft_config")
    teacher = shape_of(models.teachers[0]) if method != "sft" else None
    floor = floor_flops(
        shape_of(student), teacher, rows=rows, width=width, labelled=labelled, lora=lora
    )
    if method == "kd" and attention_weight and models.kernels is REFERENCE:
        # Those of other kernels are not counted, so the minimum is without them too.
        floor += _attention_loss_flops(models)
    speed = int(batch["attention_mask"].sum()) / seconds(backward(fused), 2)
    return Case(
        method + ("+lora" if lora else ""),
        loss_error,
        grad_error,
        flops / floor,
        peak,
        speed,
        _note(loss_error, grad_error, flops / floor),
    )


def _attention_loss_flops(models: Models) -> float:
    mask = labelled_positions(models.batch["labels"])
    keys = sum(float(row.nonzero().sum() + row.sum()) for row in mask)
    return attention_loss_flops(shape_of(models.student), len(models.layers), keys)


def _note(loss: float, grad: float, flops: float) -> str:
    notes = []
    if loss > LOSS_TOLERANCE:
        notes.append(f"the loss is off by {loss:.1e}")
    if grad > GRAD_TOLERANCE:
        notes.append(f"the gradient is off by {grad:.1e}")
    if flops > FLOPS_TOLERANCE:
        notes.append(f"{flops:.2f} times the minimum FLOPs")
    return "; ".join(notes)


# ---------------------------------------------------------------- models and data


def random_batch(vocab: int, rows: int = ROWS, width: int = 96, seed: int = 0) -> dict[str, Tensor]:
    """Return random tokens without padding, with the second half labelled and alternating kinds."""
    generator = torch.Generator().manual_seed(seed)
    ids = torch.randint(3, vocab, (rows, width), generator=generator)
    labels = ids.clone()
    labels[:, : width // 2] = IGNORE_INDEX
    return {
        "input_ids": ids,
        "attention_mask": torch.ones_like(ids),
        "labels": labels,
        "index": torch.arange(rows),
        "kind": torch.arange(rows) % 2,
    }


def tiny_model(seed: int, **changes: object) -> Any:
    """Return a random Llama with grouped-query attention."""
    torch.manual_seed(seed)
    settings: dict[str, Any] = {
        "vocab_size": 4096,
        "hidden_size": 128,
        "intermediate_size": 352,
        "num_hidden_layers": 4,
        "num_attention_heads": 8,
        "num_key_value_heads": 4,
        "max_position_embeddings": 4096,
        "tie_word_embeddings": False,
        "initializer_range": 0.08,
        "attn_implementation": "sdpa",
    }
    return LlamaForCausalLM(LlamaConfig(**{**settings, **changes})).eval()


def with_adapter(model: Any, seed: int = 0) -> Any:
    """Add a random adapter to every linear layer."""
    from peft import LoraConfig, get_peft_model

    torch.manual_seed(seed)
    return get_peft_model(
        model,
        LoraConfig(
            r=8, target_modules="all-linear", task_type="CAUSAL_LM", init_lora_weights=False
        ),
    )


def tiny_cases() -> list[tuple[str, Models, Mix, float]]:
    """Return SFT, KD and DAE with full weights, and DAE with an adapter, on tiny random models."""
    batch = random_batch(4096)
    layers = {i: i for i in range(4)}

    def fresh(lora: bool = False) -> Models:
        student = tiny_model(1)
        if lora:
            student = with_adapter(student)
        teachers = [tiny_model(2), tiny_model(3)]
        for model in (causal_model(student), *teachers):
            install_attention_hook(model)
        attach_loss(student)
        return Models(student, teachers, batch, layers)

    sft, follow = Mix(kl_weight=0.0, ce_weight=1.0), Mix()
    return [
        ("sft", fresh(), sft, 0.0),
        ("kd", fresh(), Mix(temperature=2.0, kl_weight=0.8, ce_weight=0.2), 0.8),
        ("dae", fresh(), follow, 0.0),
        ("dae", fresh(lora=True), follow, 0.0),
    ]


def config_cases(
    config: AnyConfig, paths: Paths, say: Callable[[str], None]
) -> list[tuple[str, Models, Mix, float]]:
    """Return the config's own student and teachers with its first few rows."""
    if not isinstance(config, (SFTConfig, KDConfig, DAEConfig)):
        raise ConfigError("selfcheck needs a training config")
    teacher = config.main_teacher
    check_kernels(config.trainer.kernels, config.trainer.device)
    setting = prepare_setting(config, paths, teacher.model if teacher else None, say)
    if config.trainer.compile or config.trainer.tf32:
        say("without compile and tf32, which the comparison leaves out")
    if any(spec and spec != beside_student(spec) for spec in teacher_specs(config).values()):
        say("with every teacher on the student's device, which the comparison needs")

    def load(spec: TeacherSpec) -> Any:
        return load_frozen(beside_student(spec), setting)

    chosen = setting.plan.batches[0][:ROWS]
    # Padding is masked; every teacher embeds id 0, but maybe not the student's own padding.
    collate = Collator(0, setting.kinds)
    made = collate([setting.train[index] for index in chosen])
    # Without the layout, which belongs to the rows' own kinds.
    batch = {name: made[name].to(setting.device) for name in made if name != "layout"}
    teachers: list[Any] = []
    layers: dict[int, int] = {}
    mix, weight = Mix(kl_weight=0.0, ce_weight=1.0), 0.0
    if isinstance(config, KDConfig):
        teachers = [load(config.teacher)]
        mix, weight = make_mix(config.trainer), config.trainer.attention_weight
        if config.trainer.has_attention_loss:
            parent = parent_of(config.teacher, paths)
            layers = attention_layers(config, setting, teachers[0], parent)
            install_attention_hook(teachers[0])
            install_attention_hook(causal_model(setting.student))
    elif isinstance(config, DAEConfig):
        mix = make_mix(config.trainer)
        base = copy.deepcopy(causal_model(setting.student)).requires_grad_(False)
        first = load(config.reference) if config.reference else base
        teachers = [first, load(config.main_teacher)]
        batch["kind"] = torch.arange(len(chosen), device=batch["kind"].device) % 2
    attach_loss(setting.student)
    kernels = kernels_named(config.trainer.kernels)
    models = Models(setting.student, teachers, batch, layers, kernels)
    return [(config.method, models, mix, weight * mix.kl_weight)]


def selfcheck(
    config: AnyConfig | None, paths: Paths, say: Callable[[str], None] = lambda _: None
) -> dict[str, Any]:
    """Return `{ok, cases}`, see `Case`."""
    cases = tiny_cases() if config is None else config_cases(config, paths, say)
    results: list[Mapping[str, Any]] = []
    for method, models, mix, weight in cases:
        say(f"checking {method}")
        results.append(asdict(check(models, method, mix, weight)))
    return {"ok": all(not case["note"] for case in results), "cases": results}
