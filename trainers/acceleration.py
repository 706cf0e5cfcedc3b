"""What makes a training faster or smaller on a device: attention kernels, compiling, TF32, QLoRA.

Each setting is honoured or refused by name, before models are loaded.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Mapping
from importlib.util import find_spec
from typing import TYPE_CHECKING, Any

import torch
from torch._dynamo import config as dynamo

from kdharness.harness.config.models import HOST_MEMORY, QuantizationSpec
from kdharness.harness.config.precision import Precision
from kdharness.harness.config.training import KDConfig, TrainConfig, field_of, teacher_specs
from kdharness.harness.errors import ConfigError
from kdharness.harness.models.lm_head import backbone
from kdharness.trainers.engines import uses_fsdp

if TYPE_CHECKING:
    from transformers import PreTrainedModel

FLASH = {"flash_attention_2": "flash_attn", "flash_attention_3": "flash_attn_interface"}
"""Attention implementation -> the module that it needs."""


def check_acceleration(
    config: TrainConfig, device: str, precision: Precision, environ: Mapping[str, str]
) -> None:
    """Refuse what this machine cannot do.

    Raises:
        ConfigError: a setting without a GPU, package or compiler that it needs.
    """
    spec = config.trainer
    kind = torch.device(device).type
    if spec.tf32 and kind != "cuda":
        raise ConfigError(
            f"tf32 is a format of NVIDIA GPUs, and this training runs on {device}",
            where="trainer.tf32",
            hint="remove it",
        )
    _check_attention(config, kind, precision)
    if spec.compile:
        kinds = [s.device.partition(":")[0] for s in teacher_specs(config).values() if s]
        for compiled in {kind, *kinds} - {"auto"}:
            _check_compiler(compiled)
    for where, quantization in quantized(config).items():
        if find_spec("bitsandbytes") is None:
            raise ConfigError(
                f"{quantization.method} needs the package bitsandbytes",
                where=where,
                hint="pip install 'kdharness[gpu]', or remove it",
            )
    if config.student.quantization is not None and uses_fsdp(environ):
        raise ConfigError(
            "quantised weights cannot be sharded",
            where="student.quantization",
            hint="remove it, or train with DDP: every process then keeps the whole model, which "
            "is small",
        )


def _check_attention(config: TrainConfig, kind: str, precision: Precision) -> None:
    name = config.trainer.attn_implementation
    where = "trainer.attn_implementation"
    if name not in FLASH:
        if config.trainer.packing and kind != "cpu":
            raise ConfigError(
                f"packing needs a flash attention kernel on {kind}: others compare every pair of a "
                "micro-batch's tokens",
                where="trainer.packing",
                hint="set trainer.attn_implementation: flash_attention_2, or remove packing",
            )
        return
    if kind != "cuda":
        raise ConfigError(f"{name} needs an NVIDIA GPU", where=where, hint="use sdpa")
    if find_spec(FLASH[name]) is None:
        raise ConfigError(
            f"{name} needs the package {FLASH[name].replace('_', '-')}",
            where=where,
            hint="install it, or use sdpa, which has a flash kernel of its own",
        )
    if isinstance(config, KDConfig) and config.trainer.has_attention_loss:
        raise ConfigError(
            f"the attention loss cannot be computed beside {name}",
            where=where,
            hint="use sdpa, or set trainer.attention_weight: 0",
        )
    teachers = [spec for spec in teacher_specs(config).values() if spec and not spec.served]
    if elsewhere := next((s.device for s in teachers if s.device in HOST_MEMORY), None):
        raise ConfigError(
            f"{name} needs an NVIDIA GPU, and a teacher is on {elsewhere}",
            where=where,
            hint="use sdpa, or remove the teacher's device",
        )
    if precision.compute != "bfloat16" or any(spec.dtype == "float32" for spec in teachers):
        raise ConfigError(
            f"{name} computes in bf16 only",
            where=where,
            hint="set trainer.precision: mixed and no teacher.dtype, or use sdpa",
        )


def _check_compiler(kind: str) -> None:
    problem = ""
    if kind == "cuda":
        problem = triton_problem()
    elif kind != "cpu":
        problem = f"compile does not support {kind}"
    # torch's own choice: $CXX, else g++.
    elif shutil.which(os.environ.get("CXX") or "g++") is None:
        problem = "compile needs a C++ compiler: g++, or the one that CXX names"
    if problem:
        hint = "remove it: only speed depends on it"
        raise ConfigError(problem, where="trainer.compile", hint=hint)


def triton_problem() -> str:
    """Return what Triton lacks on this machine, or an empty string.

    It compiles a launcher for every kernel, with $CC, gcc or clang.
    """
    if find_spec("triton") is None:
        return "the package triton is not installed"
    named = os.environ.get("CC")
    if not any(map(shutil.which, [named] if named else ["gcc", "clang"])):
        return "Triton needs a C compiler: gcc, clang, or the one that CC names"
    return ""


def quantized(config: TrainConfig) -> dict[str, QuantizationSpec]:
    """Return the quantisations of a config by the names of their fields."""
    found = {
        f"{field_of(kind)}.quantization": spec.quantization
        for kind, spec in teacher_specs(config).items()
        if spec is not None
    }
    found["student.quantization"] = config.student.quantization
    return {where: value for where, value in found.items() if value is not None}


def attention_options(name: str) -> dict[str, Any]:
    """Return what `trainer.attn_implementation` adds to the options of `load_model`."""
    return {} if name == "auto" else {"attn_implementation": name}


def compile_layers(model: PreTrainedModel, backend: str = "inductor") -> int:
    """Compile a decoder layer by layer; return how many layers it has.

    Layers share their code: what is compiled for one serves all. Names of weights do not change.

    Raises:
        ConfigError: its layers were not found.
    """
    depth = model.config.get_text_config().num_hidden_layers
    lists = [part for part in backbone(model).modules() if isinstance(part, torch.nn.ModuleList)]
    layers = next((part for part in lists if len(part) == depth), ())
    if not layers:
        raise ConfigError(
            f"compile: the layers of {type(model).__name__} were not found",
            where="trainer.compile",
            hint="remove it: only speed depends on it",
        )
    # Grad mode, adapters and single rows make variants of the same code; torch's limit of 8 would
    # leave the others uncompiled.
    dynamo.recompile_limit = max(dynamo.recompile_limit, 64)
    for layer in layers:
        layer.compile(dynamic=True, backend=backend)
    return len(layers)


def allow_tf32() -> None:
    """Let fp32 products on a GPU use TF32, in this process."""
    torch.set_float32_matmul_precision("high")
