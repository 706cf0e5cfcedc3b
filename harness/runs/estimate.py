"""Estimate the memory, FLOPs, time and disk of a run before it starts.

Parameters are counted exactly, on a model without weights (the meta device). Activations follow
what a Llama-like layer keeps for its backward pass (`activation_floats`); a test compares the
estimate with the memory that small models use.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from kdharness.harness.config.training import AnyConfig, DAEConfig, DistillSpec, KDConfig, SFTConfig
from kdharness.harness.errors import ConfigError, ModelError
from kdharness.harness.paths import Paths

BYTES = {"float32": 4, "bfloat16": 2, "float16": 2}
QUANTIZED = {"bnb-4bit": 0.55, "bnb-8bit": 1.05}
OPTIMIZER_STATE = {
    "adamw": (2.0, 0.0),
    "adamw_8bit": (0.0, 2.0),
    "adafactor": (0.05, 0.0),
    "sgd": (0.0, 0.0),
}
"""(values in the parameter's own dtype, further bytes) that an optimiser keeps per parameter.

torch stores AdamW's moments in the parameter's dtype: bf16 weights have bf16 moments."""


def optimizer_bytes(optimizer: str, unit: int) -> float:
    """Return the bytes of optimiser state per trained parameter of `unit` bytes."""
    numbers, further = OPTIMIZER_STATE[optimizer]
    return numbers * unit + further


@dataclass(frozen=True)
class Size:
    """Dimensions of a model. `body` is the parameter count without embeddings and head."""

    total: int
    body: int
    layers: int
    hidden: int
    intermediate: int
    heads: int
    key_heads: int
    head_size: int
    vocab: int


@dataclass(frozen=True)
class ResourceEstimate:
    """Resources of a run: memory in bytes per process, FLOPs and seconds in total."""

    parameters: dict[str, int]
    trained: int
    steps: int
    tokens: int
    labelled: int
    padding_share: float
    memory: dict[str, float]
    flops: float
    seconds: float | None
    disk: float

    @property
    def peak(self) -> float:
        """Total memory in bytes."""
        return sum(self.memory.values())

    def rows(self) -> list[dict[str, Any]]:
        """Return the rows of `kdharness plan`."""
        rows = [
            {"figure": f"parameters {role}", "value": count, "unit": ""}
            for role, count in self.parameters.items()
        ]
        rows += [
            {"figure": "parameters trained", "value": self.trained, "unit": ""},
            {"figure": "steps", "value": self.steps, "unit": ""},
            {"figure": "tokens", "value": self.tokens, "unit": ""},
            {"figure": "tokens labelled", "value": self.labelled, "unit": ""},
            {"figure": "padding", "value": round(self.padding_share, 4), "unit": "share"},
        ]
        rows += [
            {"figure": f"memory {name}", "value": round(size / 2**30, 4), "unit": "GiB per process"}
            for name, size in self.memory.items()
        ]
        peak = round(self.peak / 2**30, 4)
        rows += [
            {"figure": "memory peak", "value": peak, "unit": "GiB per process"},
            {"figure": "FLOPs", "value": float(f"{self.flops:.4g}"), "unit": ""},
            {"figure": "time", "value": self.seconds and round(self.seconds, 1), "unit": "s"},
            {"figure": "disk", "value": round(self.disk / 2**30, 4), "unit": "GiB"},
        ]
        return rows


def model_size(source: str, paths: Paths, keep_layers: int | None = None) -> Size:
    """Compute the exact size of a model from its config alone, cut to `keep_layers` layers.

    Raises:
        ModelError: no such model, or an unsupported architecture.
    """
    from kdharness.harness.models.loading import build_meta, load_config_of

    config = load_config_of(source, paths)
    text = config.get_text_config()
    if keep_layers is not None:
        text.num_hidden_layers = keep_layers
        if isinstance(getattr(text, "layer_types", None), list):
            text.layer_types = text.layer_types[:keep_layers]
    model = build_meta(config, source)
    ends = model.get_input_embeddings(), model.get_output_embeddings()
    outside = {id(getattr(module, "weight", None)) for module in ends}
    active = active_experts(text)
    body = 0
    for name, value in model.named_parameters():
        if id(value) not in outside:
            body += int(value.numel() * (active if ".experts." in name else 1.0))
    heads, hidden = _shape(text, "num_attention_heads"), _shape(text, "hidden_size")
    return Size(
        total=sum(p.numel() for p in model.parameters()),
        body=body,
        layers=_shape(text, "num_hidden_layers"),
        hidden=hidden,
        # GPT-2-like configs may leave the inner size unset: four times the hidden size.
        intermediate=_shape(text, "intermediate_size", "n_inner", "ffn_dim", default=4 * hidden),
        heads=heads,
        key_heads=_shape(text, "num_key_value_heads", default=heads),
        head_size=_shape(text, "head_dim", default=hidden // heads),
        vocab=_shape(text, "vocab_size"),
    )


def _shape(config: object, *names: str, default: int | None = None) -> int:
    """Read an integer from a model's config, by the first of these names that is set.

    Raises:
        ModelError: none of them is set and there is no default.
    """
    for name in names:
        value = getattr(config, name, None)
        if isinstance(value, int) and not isinstance(value, bool) and value > 0:
            return value
    if default is None:
        raise ModelError(
            f"unknown shape of {getattr(config, 'model_type', 'model')} models: "
            f"the config has no {names[0]}",
            hint="plan supports decoder models with attention; training may still work",
        )
    return default


def active_experts(config: object) -> float:
    """Return the share of a mixture's experts active per token; 1 for a dense model."""
    every = ("num_local_experts", "num_experts", "n_routed_experts")
    total = _shape(config, *every, default=0)
    return _shape(config, "num_experts_per_tok", "moe_topk", default=total) / total if total else 1


def activation_floats(size: Size, tokens: int, *, checkpointing: bool) -> float:
    """Return how many values the backward pass needs, for `tokens` positions of one micro-batch.

    Without gradient checkpointing a layer keeps per position: the inputs of its two norms, their
    scaled and final outputs (6 h), queries, keys and values before and after the rotation, the
    attention output, and four vectors of the MLP's inner size. With checkpointing each layer keeps
    only its input, and one layer at a time keeps everything.
    """
    attention = 3 * size.heads * size.head_size + 3 * size.key_heads * size.head_size
    layer = 6 * size.hidden + attention + 4 * size.intermediate
    per_token = (size.layers * size.hidden + layer) if checkpointing else size.layers * layer
    return float(tokens * (per_token + 3 * size.hidden))


def lora_parameters(size: Size, r: int) -> int:
    """Return the number of adapter weights, on all linear layers except the head."""
    q, k = size.heads * size.head_size, size.key_heads * size.head_size
    pairs = [
        (size.hidden, q),
        (size.hidden, k),
        (size.hidden, k),
        (q, size.hidden),
        (size.hidden, size.intermediate),
        (size.hidden, size.intermediate),
        (size.intermediate, size.hidden),
    ]
    return size.layers * r * sum(a + b for a, b in pairs)


def plan_memory(
    config: AnyConfig,
    student: Size,
    teachers: Mapping[str, Size],
    width: int,
    *,
    engine: str,
    processes: int,
    on_cpu: bool,
) -> tuple[dict[str, float], int]:
    """Return (bytes per part for one process, number of trained parameters)."""
    assert isinstance(config, (SFTConfig, KDConfig, DAEConfig))
    spec = config.trainer
    dtype = spec.dtype if spec.dtype != "auto" else ("float32" if on_cpu else "bfloat16")
    unit = BYTES[dtype]
    lora = config.student.lora
    trained = lora_parameters(student, lora.r) if lora else student.total
    shard = processes if engine == "fsdp2" else 1
    rows = spec.batch_size
    tokens = spec.tokens_per_batch or rows * width
    parts = {
        "weights": student.total * unit / shard + (trained * unit if lora else 0),
        "gradients": trained * unit / shard,
        "optimizer": trained * optimizer_bytes(spec.optimizer, unit) / shard,
        "activations": unit
        * activation_floats(student, tokens, checkpointing=spec.gradient_checkpointing),
    }
    chunk = spec.chunk if isinstance(spec, DistillSpec) else 128
    buffers = 4 if teachers else 3
    parts["logits"] = 4.0 * buffers * chunk * student.vocab
    if not lora:
        # The head's gradient is computed in the forward pass, in addition to the accumulated one.
        parts["logits"] += unit * student.vocab * student.hidden
    for role, size in teachers.items():
        parts[f"teacher {role}"] = _teacher_bytes(config, role, size, unit, shard)
    if isinstance(config, KDConfig) and config.trainer.attention_weight:
        size = teachers["teacher"]
        kept = (size.heads + size.key_heads) * size.head_size * student.layers
        parts["attention"] = float(unit * tokens * kept)
    return parts, trained


def _teacher_bytes(config: AnyConfig, role: str, size: Size, unit: int, shard: int) -> float:
    spec: Any = getattr(config, role, None)
    if isinstance(config, DAEConfig) and role in config.experts:
        spec = config.experts[role]
    quantization = getattr(spec, "quantization", None)
    each = QUANTIZED[quantization.method] if quantization else unit
    return size.total * each / shard


def step_flops(
    student: Size,
    teacher: Size | None,
    *,
    tokens: int,
    labelled: int,
    width: int,
    lora: bool,
    checkpointing: bool,
) -> float:
    """Return the FLOPs of one step, including attention and heads (docs/method.md#flops)."""
    times = (2 if lora else 3) + bool(checkpointing)
    scores = 4.0 * tokens * width
    total = 2.0 * times * student.body * tokens
    total += scores * student.layers * student.heads * student.head_size * (3.5 + checkpointing)
    total += 2.0 * (2 if lora else 3) * student.vocab * student.hidden * labelled
    if teacher is not None:
        total += 2.0 * teacher.body * tokens + 2.0 * teacher.vocab * teacher.hidden * labelled
        total += scores * teacher.layers * teacher.heads * teacher.head_size
    return total


def teacher_sources(config: AnyConfig) -> dict[str, str]:
    """Map each role to its frozen model, for models that training loads in addition."""
    if isinstance(config, KDConfig):
        return {} if config.teacher.cache else {"teacher": config.teacher.model}
    if not isinstance(config, DAEConfig):
        return {}
    specs = {name: spec for name, spec in config.experts.items() if not spec.cache}
    if config.expert and not config.expert.cache:
        specs["expert"] = config.expert
    if config.reference and not config.reference.cache:
        specs["reference"] = config.reference
    return {role: spec.model for role, spec in specs.items()}


def student_source(config: AnyConfig) -> tuple[str, int | None]:
    """Return the (model, number of kept layers or None) that determine the student's size."""
    assert isinstance(config, (SFTConfig, KDConfig, DAEConfig))
    spec = config.student
    if spec.model:
        return spec.model, None
    if spec.source:
        source = spec.source
        if source == "teacher" and config.main_teacher:
            source = config.main_teacher.model
        keep = spec.keep_layers
        return source, keep if isinstance(keep, int) else len(keep or [])
    raise ConfigError(
        "plan does not support experts_from: train once, then plan with the resulting model"
    )


def estimate(
    config: AnyConfig,
    paths: Paths,
    rows: Any,
    *,
    engine: str = "single",
    processes: int = 1,
    tflops: float | None = None,
) -> ResourceEstimate:
    """Estimate the resources of a training run.

    Args:
        rows: the batch plan of `kdharness.trainers`: steps, tokens, labelled, padding share, width.
        engine: single, ddp or fsdp2.
        processes: number of GPUs (or CPU processes).
        tflops: sustained TFLOP/s of one of them; without it the time is unknown.
    """
    if not isinstance(config, (SFTConfig, KDConfig, DAEConfig)):
        raise ConfigError(f"plan does not support {config.method} configs")
    spec = config.trainer
    student = model_size(*_with_paths(student_source(config), paths))
    teachers = {role: model_size(s, paths) for role, s in teacher_sources(config).items()}
    on_cpu = spec.device == "cpu" or (spec.device == "auto" and not _has_accelerator())
    memory, trained = plan_memory(
        config,
        student,
        teachers,
        rows["width"],
        engine=engine,
        processes=processes,
        on_cpu=on_cpu,
    )
    biggest = max(teachers.values(), key=lambda size: size.total, default=None)
    if isinstance(config, DAEConfig) and not config.reference and not config.student.lora:
        biggest = biggest or student
        memory["teacher reference"] = student.total * 4.0 if on_cpu else student.total * 2.0
    padded = rows["tokens"] / max(1 - rows["padding_share"], 1e-9)
    flops = step_flops(
        student,
        biggest,
        tokens=round(padded),
        labelled=rows["labelled"],
        width=rows["width"],
        lora=config.student.lora is not None,
        checkpointing=spec.gradient_checkpointing,
    )
    unit = 4 if on_cpu else 2
    final = (trained if config.student.lora else student.total) * unit
    saved = spec.keep if spec.save_every else 1
    return ResourceEstimate(
        parameters={"student": student.total, **{r: s.total for r, s in teachers.items()}},
        trained=trained,
        steps=rows["steps"],
        tokens=rows["tokens"],
        labelled=rows["labelled"],
        padding_share=rows["padding_share"],
        memory=memory,
        flops=flops,
        seconds=flops / (tflops * 1e12 * processes) if tflops else None,
        disk=final + saved * (final + trained * optimizer_bytes(spec.optimizer, unit)),
    )


def _with_paths(source: tuple[str, int | None], paths: Paths) -> tuple[str, Paths, int | None]:
    return source[0], paths, source[1]


def _has_accelerator() -> bool:
    import torch

    return bool(torch.cuda.is_available() or torch.backends.mps.is_available())
