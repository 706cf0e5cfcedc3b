"""Memory of a training process, by what it is needed for.

Weights, gradients and optimizer state follow from the precision. Activations follow what a layer
keeps for its backward pass (`runs.activations`); a test compares them with the bytes that small
models really keep, for every precision, with and without LoRA and checkpointing.
"""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType

from kdharness.harness.config.models import QuantizationSpec, TeacherSpec
from kdharness.harness.config.precision import BYTES, Precision
from kdharness.harness.config.trainer import DAESpec, DistillSpec, SFTSpec, TrainerSpec
from kdharness.harness.config.training import DAEConfig, KDConfig, SFTConfig
from kdharness.harness.models.lm_head import rows_at_once
from kdharness.harness.runs.activations import activation_bytes
from kdharness.harness.runs.sizes import Size, lora_parameters
from kdharness.harness.runs.teachers import (
    place_of,
    runs_at,
    teacher_kinds,
    teacher_spec,
)

OFFLOADED = "offloaded teacher"
"""The largest of those that are on a device only while they score."""
QUANTIZED = {"bnb-4bit": 0.55, "bnb-8bit": 1.05}
STATE_BYTES = {"adamw": 8.0, "adamw_8bit": 2.03, "adafactor": 0.05 * 4, "sgd": 0.0}
"""Bytes of optimizer state per trained fp32 parameter; 8-bit states have a scale per 256."""


def optimizer_bytes(optimizer: str, precision: Precision) -> float:
    """Return the bytes of optimizer state per trained parameter.

    torch stores AdamW's moments in the weights' dtype; stochastic rounding keeps them in fp32.
    """
    state = STATE_BYTES[optimizer]
    if optimizer == "adamw_8bit" or precision.stochastic:
        return state
    return state * BYTES[precision.trained] / 4


def plan_memory(
    config: SFTConfig | KDConfig | DAEConfig,
    student: Size,
    teachers: Mapping[str, Size],
    width: int,
    *,
    engine: str,
    processes: int,
    on_cpu: bool,
    heads: Mapping[str, Size] = MappingProxyType({}),
) -> tuple[dict[str, float], int]:
    """Return (bytes per part for one process, number of trained parameters).

    Args:
        config: a training config.
        student: the student's dimensions.
        teachers: role -> dimensions of the models loaded in addition.
        heads: role -> dimensions of the teachers whose hidden states are cached: training loads
            their heads, and nothing shards them.
        width: positions of the widest micro-batch's rows, padding included.
        engine: single, ddp or fsdp2.
        processes: number of processes.
        on_cpu: whether the device is a CPU, or a GPU with bf16.
    """
    spec, lora = config.trainer, config.student.lora
    precision = spec.precision_on(lora=lora is not None, has_bf16=not on_cpu)
    trained = lora_parameters(student, lora) if lora else student.total
    unit = BYTES[precision.trained]
    shard = processes if engine == "fsdp2" else 1
    tokens = positions_at_once(spec, width)
    head = head_bytes(config, student, {**teachers, **heads}, precision, tokens, on_cpu=on_cpu)
    # Autocast's copies of weights live until the backward pass.
    copies = 2.0 * (trained if lora else student.linear) if precision.autocast else 0.0
    if shard > 1:
        copies /= student.layers
    parts = {
        "weights": weight_bytes(student, BYTES[precision.weights], config.student.quantization)
        / shard,
        "gradients": trained * unit / shard,
        "optimizer": trained * optimizer_bytes(spec.optimizer, precision) / shard,
        "activations": activation_bytes(
            student,
            precision,
            lora,
            tokens,
            checkpointing=spec.gradient_checkpointing,
            head=head + copies,
            on_cpu=on_cpu,
        ),
    }
    if lora:
        parts["weights"] += trained * unit / shard
    elif spec.l2_start:
        parts["starting weights"] = float(trained * unit / shard)
    if copies:
        parts["bf16 copies"] = copies
    for role, size in heads.items():
        teacher = teacher_spec(config, role)
        unit_of_head = _teacher_unit(teacher, on_cpu)
        parts[f"head of teacher {role}"] = float(size.vocab * size.hidden * unit_of_head)
    parts["logits"] = head
    if not lora:
        # The head's gradient is computed in the forward pass, in addition to the accumulated one.
        parts["logits"] += float(unit * student.vocab * student.hidden)
    parts |= teacher_places(config, teachers, shard=shard, on_cpu=on_cpu).get("", {})
    if isinstance(config, KDConfig):
        parts |= _attention_bytes(config, student, teachers, precision, tokens, on_cpu=on_cpu)
    # Answers are sampled between steps, when nothing of a step is alive.
    beyond = sampling_bytes(spec, student, width, BYTES[precision.compute]) - sum(
        parts[name] for name in ("activations", "logits")
    )
    return parts | ({"sampling": beyond} if beyond > 0 else {}), trained


def sampling_bytes(spec: TrainerSpec, student: Size, width: int, unit: int) -> float:
    """Return the bytes of keys and values of the answers that are sampled together."""
    own = spec.on_policy if isinstance(spec, DistillSpec) else None
    if own is None or not own.is_local:
        return 0.0
    rows = min(own.batch_size, spec.batch_size * spec.accumulation)
    return float(rows * width * student.layers * (student.keys + student.values) * unit)


def positions_at_once(spec: TrainerSpec, width: int) -> int:
    """Return the positions of the largest micro-batch.

    A row that is longer than `tokens_per_batch` is a micro-batch of its own. Packed, `width` is
    already that of a row of the largest one.
    """
    if spec.tokens_per_batch is None or spec.packing:
        return spec.batch_size * width
    return max(spec.tokens_per_batch, width)


def teacher_places(
    config: SFTConfig | KDConfig | DAEConfig,
    teachers: Mapping[str, Size],
    *,
    shard: int,
    on_cpu: bool,
) -> dict[str, dict[str, float]]:
    """Return device -> bytes per part of the teachers' weights; the student's device is "".

    A teacher on another device, or in host memory, has a copy of its head on the student's, which
    the loss needs. Of those in host memory one at a time is copied to where it runs.
    """
    student = config.trainer.device
    if student == "auto":
        student = "cpu" if on_cpu else "cuda"
    places: dict[str, dict[str, float]] = {"": {}}
    for role, size in teachers.items():
        spec = teacher_spec(config, role)
        # Packed weights cannot be sharded, and a teacher that fills a cache is not.
        split = 1 if spec is not None and (spec.quantization or spec.cache) else shard
        place, whole = place_of(spec, student), teacher_bytes(spec, size, on_cpu) / split
        places.setdefault(place, {})[f"teacher {role}"] = whole
        if not place:
            continue
        assert spec is not None
        head = float(size.vocab * size.hidden * _teacher_unit(spec, on_cpu))
        places[""][f"teacher {role}, head"] = head
        if spec.offload:
            runs = places.setdefault(place_of(runs_at(spec), student), {})
            copied = whole if size.tied else whole - head
            runs[OFFLOADED] = max(copied, runs.get(OFFLOADED, 0.0))
    return places


def head_bytes(
    config: SFTConfig | KDConfig | DAEConfig,
    student: Size,
    teachers: Mapping[str, Size],
    precision: Precision,
    tokens: int,
    *,
    on_cpu: bool,
) -> float:
    """Return the bytes of a chunk's logits and of the head's copies: gone after the forward."""
    spec = config.trainer
    chosen = spec.chunk if isinstance(spec, DistillSpec) else None
    # A micro-batch has no more labelled positions than it has positions.
    chunk = min(rows_at_once(chosen, student.vocab, on_cuda=not on_cpu), tokens)
    weights = student.vocab * student.hidden
    total = _chunk_unit(config, bool(teachers), precision) * chunk * student.vocab
    if precision.autocast and not config.student.lora:
        total += 2.0 * weights
    if on_cpu and precision.compute == "bfloat16":
        # A CPU multiplies bf16 into fp32 through copies.
        total += 4.0 * weights
    return total


def _chunk_unit(
    config: SFTConfig | KDConfig | DAEConfig, taught: bool, precision: Precision
) -> float:
    """Return the bytes per logit of what computes a chunk's loss.

    The reference has three fp32 buffers, four with a teacher. Triton's kernels have the student's
    logits, the teacher's, and a gradient in the dtype of the products, which overwrites fp32
    logits. Cached distributions, token weights and non-target tokens are left to the reference.
    """
    spec = config.trainer
    weighted = isinstance(spec, SFTSpec) and spec.token_weights != "none"
    anchored = isinstance(spec, DAESpec) and spec.non_target_weight > 0
    if spec.kernels == "reference" or weighted or anchored:
        return 16.0 if taught else 12.0
    narrow = BYTES[precision.compute]
    own = 4.0 * (2 if taught else 1) + (narrow if narrow < 4 else 0)
    cached = [spec.cache for _, spec in teacher_kinds(config).values() if spec.cache]
    return max(own, 12.0 if any(cache.kind == "top-k" for cache in cached) else 0.0)


def _teacher_unit(spec: TeacherSpec | None, on_cpu: bool) -> int:
    """Return the bytes of one of a teacher's numbers, of its weights as of its activations."""
    dtype = spec.dtype if spec is not None else "auto"
    if spec is not None and spec.device != "auto":
        on_cpu = not spec.device.startswith("cuda")
    return BYTES[("float32" if on_cpu else "bfloat16") if dtype == "auto" else dtype]


def teacher_bytes(spec: TeacherSpec | None, size: Size, on_cpu: bool) -> float:
    """Return the bytes of a teacher's weights; without a spec, of the student before training."""
    return weight_bytes(size, _teacher_unit(spec, on_cpu), spec.quantization if spec else None)


def weight_bytes(size: Size, unit: int, quantization: QuantizationSpec | None) -> float:
    """Return the bytes of a model's weights of `unit` bytes, of which a quantiser replaces some."""
    replaced = size.quantizable if quantization else 0
    packed = replaced * QUANTIZED[quantization.method] if quantization else 0.0
    return packed + float((size.total - replaced) * unit)


def _attention_bytes(
    config: KDConfig,
    student: Size,
    teachers: Mapping[str, Size],
    precision: Precision,
    tokens: int,
    *,
    on_cpu: bool,
) -> dict[str, float]:
    """Return the bytes of the queries and keys that the attention loss keeps."""
    spec = config.trainer
    if not spec.has_attention_loss or "teacher" not in teachers:
        return {}
    layers = min(spec.attention_layers or student.layers, student.layers)
    teacher = teachers["teacher"]
    unit = _teacher_unit(config.teacher, on_cpu)
    kept = float(unit * (teacher.queries + teacher.keys) * layers)
    if precision.autocast and not config.student.lora:
        # The student's are fp32 where they are recorded, and copied to bf16 for attention.
        own = 1 if spec.gradient_checkpointing else layers
        kept += 4.0 * (student.queries + student.keys) * own
    if spec.kernels == "triton":
        # Log-sum-exps of both models' rows for each position, and which of them are labelled.
        kept += 4.0 * (student.heads + teacher.heads) * layers + 8.0
    return {"attention": kept * tokens}
