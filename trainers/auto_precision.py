"""What `precision: auto` is on a GPU: `mixed` where it fits its memory, else `bf16-sr`."""

from __future__ import annotations

import os
from collections.abc import Callable
from typing import Any

import torch.distributed as dist

from kdharness.harness.config.precision import Precision
from kdharness.harness.config.training import TrainConfig
from kdharness.harness.errors import KDHarnessError
from kdharness.harness.models import loading
from kdharness.harness.protocols import Job
from kdharness.harness.runs.estimate import auto_precision, with_precision
from kdharness.trainers.engines import uses_fsdp
from kdharness.trainers.resuming import recorded_precision


def precision_by_memory(
    config: TrainConfig, job: Job, start: str, mixed: Precision, facts: Callable[[], dict[str, Any]]
) -> Precision:
    """Return what `auto` is on this GPU, and say why in the run's log.

    A resumed run keeps what it started with, also on a GPU with another memory.

    Args:
        config: a training config.
        job: the run.
        start: the folder that the student starts from.
        mixed: what `auto` is where memory does not matter.
        facts: returns the batch plan as `estimate` needs it.
    """
    spec = config.trainer
    if spec.precision != "auto" or spec.dtype != "auto" or config.student.lora:
        return mixed
    if config.method not in ("sft", "kd", "dae"):  # methods of plugins have no plan
        return mixed
    name, reason = mixed.name, ""
    then = recorded_precision(job.folder) if job.resume else ""
    if then in ("mixed", "bf16-sr"):
        name, reason = then, "as when this run started"
    else:
        code = config.student.trust_remote_code
        student = type(config.student)(model=start, trust_remote_code=code)
        try:
            found = auto_precision(
                config.model_copy(update={"student": student}),
                job.paths,
                facts(),
                engine="fsdp2" if uses_fsdp() else "ddp" if job.world > 1 else "single",
                processes=job.world,
                device_bytes=smallest_memory(spec.device),
                # Weights in bf16 are no mixed precision, which accelerate's config may ask for.
                rounding=os.environ.get("ACCELERATE_MIXED_PRECISION", "no") == "no",
            )
        except KDHarnessError as error:
            found = "mixed", f"its memory cannot be planned ({error.message})"
        if found is not None:
            name, reason = found
    if job.is_main:
        job.reporter.say(f"precision: auto is {name}: {reason}")
    return with_precision(config, name).trainer.precision_on(lora=False, has_bf16=True)


def smallest_memory(device: str) -> int | None:
    """Return the bytes of the smallest GPU among all processes, which must decide alike."""
    sizes: list[int | None] = [loading.device_memory(device)]
    if dist.is_initialized():
        mine = sizes[0]
        sizes = [None] * dist.get_world_size()
        dist.all_gather_object(sizes, mine)
    known = [size for size in sizes if size is not None]
    return min(known) if len(known) == len(sizes) else None
