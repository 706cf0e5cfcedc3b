"""Estimate the memory, FLOPs, time and disk of a run before it starts.

Parameters are counted exactly, on a model without weights (the meta device). `runs.memory` has the
memory of a process.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from kdharness.harness.config.precision import BYTES, choose_precision
from kdharness.harness.config.training import (
    AnyConfig,
    DAEConfig,
    KDConfig,
    SFTConfig,
    field_of,
    runs_code_of,
)
from kdharness.harness.config.unused import unused_settings
from kdharness.harness.errors import ConfigError
from kdharness.harness.models import loading
from kdharness.harness.models.adapters import is_adapter
from kdharness.harness.models.resolve import naming_base, resolve_model
from kdharness.harness.models.validate import ADAPTER, tensor_entries
from kdharness.harness.paths import Paths
from kdharness.harness.runs.flops import (
    forward_flops,
    sampling_flops,
    step_flops,
    weighing_flops,
    writing_flops,
)
from kdharness.harness.runs.memory import (
    optimizer_bytes,
    plan_memory,
    teacher_bytes,
    teacher_places,
)
from kdharness.harness.runs.rollouts import NO_SAMPLING, SamplingWork
from kdharness.harness.runs.sizes import model_size
from kdharness.harness.runs.teachers import (
    CachedRows,
    planned_caches,
    refuse_own_place,
    refuse_places,
    teacher_kinds,
    teacher_sources,
    teacher_spec,
)

LONGEST = (
    "sampled answers are counted as long as they may be: tokens, memory, FLOPs and time are upper "
    "bounds"
)
PlannedConfig = SFTConfig | KDConfig | DAEConfig


@dataclass(frozen=True)
class ResourceEstimate:
    """Resources of a run: memory in bytes per process, FLOPs and seconds in total.

    `sampled` counts the tokens of on-policy answers, which are as long here as they may be.
    `memory` is that of the student's device, `elsewhere` that of other devices by their names, the
    host (`cpu`) included. `disk` is what the run adds; `caches` has the size of each teacher's
    cache once it is complete. `notes` are warnings, `precision` is what `auto` is, where that
    depends on memory.
    """

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
    caches: dict[str, float] = field(default_factory=dict)
    elsewhere: dict[str, dict[str, float]] = field(default_factory=dict)
    notes: tuple[str, ...] = ()
    precision: str = ""
    sampled: int = 0

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
        if self.sampled:
            rows.append({"figure": "tokens sampled", "value": self.sampled, "unit": "at most"})
        rows += [
            {"figure": f"memory {name}", "value": round(size / 2**30, 4), "unit": "GiB per process"}
            for name, size in self.memory.items()
        ]
        peak = round(self.peak / 2**30, 4)
        rows += [{"figure": "memory peak", "value": peak, "unit": "GiB per process"}]
        rows += [
            {
                "figure": f"memory on {place}: {name}",
                "value": round(size / 2**30, 4),
                "unit": "GiB per process",
            }
            for place, parts in self.elsewhere.items()
            for name, size in parts.items()
        ]
        rows += [
            {"figure": "FLOPs", "value": float(f"{self.flops:.4g}"), "unit": ""},
            {"figure": "time", "value": self.seconds and round(self.seconds, 1), "unit": "s"},
            {"figure": "disk", "value": round(self.disk / 2**30, 4), "unit": "GiB"},
        ]
        rows += [
            {"figure": f"cache of {role}", "value": round(size / 2**30, 4), "unit": "GiB"}
            for role, size in self.caches.items()
        ]
        rows += [{"figure": "precision", "value": self.precision, "unit": ""}] * bool(
            self.precision
        )
        rows += [{"figure": "note", "value": note, "unit": ""} for note in self.notes]
        return rows


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
    """Estimate the resources of a training run; `precision: auto` is what it would be here.

    Args:
        rows: the batch plan of `kdharness.trainers`: steps, tokens, labelled, padding share, width,
            positions of cached teachers, and the work of sampling answers.
        engine: single, ddp or fsdp2.
        processes: number of GPUs (or CPU processes).
        tflops: sustained TFLOP/s of one of them; without it the time is unknown.
    """
    if not isinstance(config, (SFTConfig, KDConfig, DAEConfig)):
        raise ConfigError(f"plan does not support {config.method} configs")
    refuse_places(config, fsdp=engine == "fsdp2", processes=processes)
    memory = loading.device_memory(config.trainer.device)
    choice = auto_precision(
        config, paths, rows, engine=engine, processes=processes, device_bytes=memory
    )
    if choice is None:
        return _estimate(config, paths, rows, engine, processes, tflops)
    name, reason = choice
    found = _estimate(with_precision(config, name), paths, rows, engine, processes, tflops)
    note = f"precision: auto is {name}: {reason}"
    return replace(found, precision=name, notes=(*found.notes, note))


def with_precision(config: PlannedConfig, name: str) -> PlannedConfig:
    """Return a config with another `trainer.precision`."""
    trainer = config.trainer.model_copy(update={"precision": name})
    return config.model_copy(update={"trainer": trainer})


def auto_precision(
    config: PlannedConfig,
    paths: Paths,
    rows: Any,
    *,
    engine: str,
    processes: int,
    device_bytes: float | None,
    rounding: bool = True,
) -> tuple[str, str] | None:
    """Return what `precision: auto` is, and why; None where memory has no part in it.

    Adapters are always mixed, and a device without bf16 trains in fp32. Stochastic rounding needs
    torchao and its AdamW, whose 8-bit states cannot be sharded.

    Args:
        rows: as in `estimate`.
        engine: single, ddp or fsdp2.
        processes: number of processes.
        device_bytes: the GPU's memory; None if unknown.
        rounding: whether updates may be rounded stochastically.
    """
    spec = config.trainer
    if spec.precision != "auto" or spec.dtype != "auto" or config.student.lora:
        return None
    if not _on_bf16_gpu(spec.device):
        return None
    names = ["mixed"]
    sharded = engine == "fsdp2" and spec.optimizer == "adamw_8bit"
    # A pull to the start is lost in weights of bf16.
    rounding = rounding and not spec.l2_start
    if rounding and spec.optimizer in ("adamw", "adamw_8bit") and not sharded:
        names += ["bf16-sr"] if find_spec("torchao") else []
    planned = {
        name: _estimate(with_precision(config, name), paths, rows, engine, processes, None).peak
        for name in (names if device_bytes is not None else ())
    }
    return choose_precision(planned, device_bytes)


def _estimate(
    config: PlannedConfig,
    paths: Paths,
    rows: Any,
    engine: str,
    processes: int,
    tflops: float | None,
) -> ResourceEstimate:
    """Estimate the resources of a training run of a known precision."""
    spec = config.trainer
    source, keep = student_source(config)
    student = model_size(
        source, paths, keep, config.student.lora, trust_remote_code=config.student.trust_remote_code
    )
    cached: Mapping[str | None, CachedRows] = rows.get("cached", {})
    sources = teacher_sources(config, cached)
    teachers = {
        role: model_size(s, paths, trust_remote_code=runs_code_of(config, s))
        for role, s in sources.items()
    }
    heads = {
        role: teachers.get(role)
        or model_size(known.model, paths, trust_remote_code=known.trust_remote_code)
        for role, (_, known) in teacher_kinds(config).items()
        if known.cache and known.cache.kind == "hidden"
    }
    caches = planned_caches(config, cached, {role: size.hidden for role, size in heads.items()})
    on_cpu = not _on_bf16_gpu(spec.device)
    memory, trained = plan_memory(
        config,
        student,
        teachers,
        rows["width"],
        engine=engine,
        processes=processes,
        on_cpu=on_cpu,
        heads=heads,
    )
    shard = processes if engine == "fsdp2" else 1
    elsewhere = teacher_places(config, teachers, shard=shard, on_cpu=on_cpu)
    del elsewhere[""]
    running = {role: size for role, size in teachers.items() if role not in caches}
    for role in running:
        source = sources[role]
        shared = _shared_bytes(role, source, config, paths, has_bf16=not on_cpu)
        if shared is not None:
            refuse_own_place(teacher_spec(config, role), field_of(teacher_kinds(config)[role][0]))
            memory[f"teacher {role}"] = shared
    biggest = max(running.values(), key=lambda size: size.total, default=None)
    if isinstance(config, DAEConfig) and not config.reference and not config.student.lora:
        biggest = biggest or student
        memory["teacher reference"] = teacher_bytes(None, student, on_cpu) / shard
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
    flops += sum(2.0 * s.vocab * s.hidden * caches[role].taught for role, s in heads.items())
    if isinstance(config, SFTConfig) and config.trainer.token_weights != "none":
        split = spec.accumulation * processes > 1
        flops += weighing_flops(
            student,
            tokens=round(padded),
            labelled=rows["labelled"],
            width=rows["width"],
            split=split,
        )
    if isinstance(config, DAEConfig) and config.trainer.non_target_weight:
        # The reference on domain rows, and the student's head once more: of all rows, as above.
        flops += forward_flops(
            teachers.get("reference", student),
            tokens=round(padded),
            labelled=rows["labelled"],
            width=rows["width"],
        )
        heads_run = 2 if config.student.lora else 3
        flops += 2.0 * heads_run * student.vocab * student.hidden * rows["labelled"]
    if writing := rows.get("writing"):
        flops += writing_flops(teachers.get("reference", student), **writing)
    work: SamplingWork = rows.get("sampling", NO_SAMPLING)
    if work.tokens:
        flops += sampling_flops(student, work)
    precision = spec.precision_on(lora=config.student.lora is not None, has_bf16=not on_cpu)
    stored = {name: float(cache.size) for name, cache in caches.items()}
    added = float(sum(cache.missing for cache in caches.values()))
    for role in heads:
        stored[role] += memory[f"head of teacher {role}"]
        # A cache with rows has its head.
        if caches[role].missing == caches[role].size:
            added += memory[f"head of teacher {role}"]
    notes = unused_settings(config)
    if student.adapter and student.adapter.missed:
        notes.append(student.adapter.missed)
    if writing:
        notes.append("general rows are not written yet: planned as long as they can get")
    if work.tokens:
        notes.append(LONGEST)
    final = (trained if config.student.lora else student.total) * BYTES[precision.trained]
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
        disk=final + saved * (final + trained * optimizer_bytes(spec.optimizer, precision)) + added,
        caches=stored,
        elsewhere=elsewhere,
        notes=tuple(notes),
        sampled=work.tokens,
    )


def _shared_bytes(
    role: str, source: str, config: AnyConfig, paths: Paths, *, has_bf16: bool
) -> float | None:
    """Return the bytes of a DAE teacher on a LoRA student's own base; None if it has another.

    The base without an adapter costs nothing, an adapter of it costs its fp32 weights.
    """
    if not isinstance(config, DAEConfig) or not config.student.lora or not config.student.model:
        return None
    base = config.trainer.precision_on(lora=True, has_bf16=has_bf16).weights
    spec = teacher_spec(config, role)
    if spec is not None and (
        spec.dtype not in ("auto", base) or spec.quantization != config.student.quantization
    ):
        return None
    ours, theirs = resolve_model(config.student.model, paths), resolve_model(source, paths)
    if theirs == ours:
        return 0.0
    folder = Path(theirs)
    if not is_adapter(folder):
        return None
    with naming_base(folder) as name:
        if resolve_model(name, paths) != ours:
            return None
    return 4.0 * sum(math.prod(entry.shape) for entry in tensor_entries(folder / ADAPTER).values())


def _on_bf16_gpu(device: str) -> bool:
    """Return whether a training computes in bf16 by default; a GPU asked for may be elsewhere."""
    return loading.has_bf16(loading.pick_device()) if device == "auto" else device[:4] == "cuda"
