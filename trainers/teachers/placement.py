"""Where teachers are: on another device than the student, or in host memory while they are idle."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor, nn

from kdharness.harness.config.models import HOST_MEMORY, TeacherSpec
from kdharness.harness.config.training import TrainConfig, field_of, teacher_specs
from kdharness.harness.errors import ConfigError
from kdharness.harness.models.lm_head import Head
from kdharness.harness.models.loading import pick_device
from kdharness.harness.runs.teachers import refuse_places
from kdharness.trainers.engines import uses_fsdp


def moved(value: Tensor, device: torch.device) -> Tensor:
    """Return a tensor on a device; only a copy to the CPU, which would be read too early, waits."""
    return value.to(device, non_blocking=device.type != "cpu")


def head_on(head: Head, device: torch.device) -> Head:
    """Return an output head on a device."""
    bias = None if head.bias is None else moved(head.bias, device)
    return replace(head, weight=moved(head.weight, device), bias=bias)


class Offloaded:
    """Weights in host memory that are copied to a device for each forward pass.

    The copies replace the weights for one call and are freed after it. Nothing is copied back,
    since frozen weights do not change: `accelerate.cpu_offload_with_hook` would copy a whole
    teacher to pageable memory after every micro-batch, and wait for it.
    """

    def __init__(self, model: nn.Module, device: str) -> None:
        """Keep a frozen model's weights in host memory, page-locked for a CUDA device.

        Args:
            model: a frozen model on the CPU.
            device: where it runs.
        """
        self.device = torch.device(device)
        if self.device.type == "cuda":
            for value in model.parameters():
                value.data = value.data.pin_memory()
        # Tables of positions: small, and some models compute them anew in their forward.
        for module in model.modules():
            for name, buffer in module.named_buffers(recurse=False):
                setattr(module, name, buffer.to(self.device))

    def call(self, module: nn.Module, **inputs: object) -> Any:
        """Call a part of the model with its weights on the device.

        One tensor with several names is copied once.
        """
        copies = {
            name: value.to(self.device, non_blocking=True, copy=True)
            for name, value in module.named_parameters()
        }
        return torch.func.functional_call(module, copies, (), dict(inputs), tie_weights=True)


# ---------------------------------------------------------------- checks


def teacher_device(spec: TeacherSpec, student: str) -> str:
    """Return where a teacher runs, given the student's device."""
    return student if spec.device == "auto" else spec.device


def beside_student(spec: TeacherSpec) -> TeacherSpec:
    """Return the same teacher, always on the student's device."""
    return spec.model_copy(update={"device": "auto", "offload": False})


def check_placement(
    config: TrainConfig, device: str, world: int, environ: Mapping[str, str]
) -> None:
    """Refuse devices of teachers that this machine or this engine does not have.

    Args:
        config: a training config.
        device: the student's.
        world: number of processes.
        environ: what `accelerate launch` set.

    Raises:
        ConfigError: names the field.
    """
    refuse_places(config, fsdp=uses_fsdp(environ), processes=world)
    for kind, spec in teacher_specs(config).items():
        if spec is None:
            continue
        field = field_of(kind)
        if spec.device != "auto":
            try:
                pick_device(spec.device)
            except ConfigError as error:
                hint = "auto is the student's device; cpu is always available, and slow"
                raise ConfigError(error.message, where=f"{field}.device", hint=hint) from error
        own = teacher_device(spec, device)
        if spec.offload and torch.device(own).type in HOST_MEMORY:
            raise ConfigError(
                f"offload has no effect here: this teacher runs on {own}, in host memory",
                where=f"{field}.offload",
                hint="remove it",
            )
