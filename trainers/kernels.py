"""What computes the losses: PyTorch (`reference`) or Triton's kernels, chosen by name.

The kernels are imported only when they are asked for, since Triton exists for some platforms only.
They are never replaced silently: what they need is checked before a run starts, and what is left
to the reference is said once, by `reference_parts`.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass
from importlib import import_module
from importlib.util import find_spec

from kdharness.harness.config.kernels import KernelsName
from kdharness.harness.errors import ConfigError
from kdharness.harness.models.loading import pick_device
from kdharness.trainers.acceleration import triton_problem
from kdharness.trainers.losses.attention import AttentionKL, attention_kl
from kdharness.trainers.losses.fused import ChunkLoss, chunk_loss
from kdharness.trainers.teachers.cache_top_k import TopKCache
from kdharness.trainers.teachers.cached import CachedTeacher


@dataclass(frozen=True)
class Kernels:
    """One implementation of the losses' inner loops."""

    name: KernelsName
    attention_kl: AttentionKL
    chunk_loss: ChunkLoss


REFERENCE = Kernels("reference", attention_kl, chunk_loss)


def kernels_named(name: KernelsName) -> Kernels:
    """Return the kernels of `trainer.kernels`; importing Triton's needs Triton."""
    if name == "reference":
        return REFERENCE
    room = "kdharness.trainers.losses"
    attention = import_module(f"{room}.triton_attention")
    head = import_module(f"{room}.triton_head")
    return Kernels(name, attention.attention_kl, head.chunk_loss)


def interpreted(environ: Mapping[str, str] = os.environ) -> bool:
    """Return whether Triton runs its kernels in Python, on any device: for tests."""
    return environ.get("TRITON_INTERPRET", "").lower() in ("1", "true", "yes", "on", "y")


def check_kernels(name: KernelsName, device: str, environ: Mapping[str, str] = os.environ) -> None:
    """Refuse kernels that cannot run on a device, named or `auto`.

    Raises:
        ConfigError: Triton is not installed, or the device is no CUDA GPU.
    """
    if name == "reference":
        return
    if interpreted(environ) and find_spec("triton") is not None:
        return
    if problem := triton_problem():
        raise ConfigError(
            f"kernels: triton cannot run: {problem}",
            where="trainer.kernels",
            hint="pip install triton (Linux; torch for CUDA brings it), or set trainer.kernels: "
            "reference",
        )
    device = pick_device(device)
    if not device.startswith("cuda"):
        raise ConfigError(
            f"kernels: triton needs a CUDA GPU, and this run would use device {device}",
            where="trainer.kernels",
            hint="set trainer.kernels: reference",
        )


def reference_parts(
    kernels: Kernels,
    teachers: Mapping[str, object],
    *,
    weighted: bool = False,
    anchored: bool = False,
) -> str:
    """Return what other kernels leave to the reference, for the run's log; empty for nothing.

    Args:
        kernels: those of the run.
        teachers: kind of rows -> teacher.
        weighted: whether tokens have weights of their own.
        anchored: whether there is a loss over non-target tokens.
    """
    cached = [
        kind
        for kind, teacher in teachers.items()
        if isinstance(teacher, CachedTeacher) and isinstance(teacher.cache, TopKCache)
    ]
    rows = "all rows" if len(cached) == len(teachers) else f"{', '.join(cached)} rows"
    left = {
        f"cached distributions: the reference computes the divergence of {rows}": bool(cached),
        "token weights: the reference computes the loss": weighted,
        "non-target tokens: the reference computes that loss": anchored,
    }
    if kernels.name == "reference":
        return ""
    return "; ".join(f"kernels: {kernels.name} has none for {what}" for what in left if left[what])
