"""A pull towards the weights that a training starts from (L2-SP), decoupled from the gradient.

Li et al., *Explicit Inductive Bias for Transfer Learning with Convolutional Networks*, arXiv
1802.01483, penalise the squared distance to the start. As with weight decay (Loshchilov & Hutter,
arXiv 1711.05101), a gradient of that penalty would be rescaled by Adam, so each step moves every
trained weight by rate · strength of its way back instead, before the optimizer's own step
(docs/method.md#starting-weights).

With LoRA the product of the adapter is what differs from the start: B is scaled, and so is B · A.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping

import torch
from torch import Tensor
from torch.distributed.tensor import DTensor
from torch.nn import Module, Parameter
from torch.optim import Optimizer

from kdharness.harness.errors import ConfigError, RunError
from kdharness.trainers.engines import uses_fsdp

WHERE = "trainer.l2_start"


def check_engine(strength: float, environ: Mapping[str, str] = os.environ) -> None:
    """Refuse engines that keep the trained weights where this cannot reach them.

    Raises:
        ConfigError: DeepSpeed, or FSDP of version 1.
    """
    if not strength:
        return
    engine = ""
    if environ.get("ACCELERATE_USE_DEEPSPEED", "false").lower() == "true":
        engine = "DeepSpeed"
    elif uses_fsdp(environ) and environ.get("FSDP_VERSION") != "2":
        engine = "FSDP of version 1"
    if engine:
        raise ConfigError(
            f"l2_start: under {engine} a process cannot reach the weights that are trained",
            where=WHERE,
            hint="use FSDP2 (fsdp_version: 2), DDP or one process",
        )


class StartAnchor:
    """The weights that a training starts from, and the pull towards them."""

    def __init__(self, strength: float) -> None:
        """Set the strength; 0 does nothing and keeps nothing."""
        self.strength = strength
        self.start: dict[Parameter, Tensor] = {}
        self.products: list[Parameter] = []

    def keep(self, model: Module) -> None:
        """Copy the trained weights once, as they are now; of a sharded model its own part.

        An adapter starts from nothing: it needs no copy.
        """
        if not self.strength or self.start or self.products:
            return
        trained = [(name, p) for name, p in model.named_parameters() if p.requires_grad]
        self.products = [p for name, p in trained if "lora_B" in name]
        if not self.products:
            self.start = {p: local(p).detach().clone() for _, p in trained}

    @torch.no_grad()
    def pull(self, optimizer: Optimizer) -> None:
        """Move the weights of an optimizer towards the start, by its current rate.

        Raises:
            RunError: the optimizer has other weights than those that were copied.
        """
        if not self.strength:
            return
        products = set(self.products)
        for group in optimizer.param_groups:
            share = float(group["lr"]) * self.strength
            if products:
                for weight in products.intersection(group["params"]):
                    local(weight).mul_(1 - share)
                continue
            weights: Iterable[Parameter] = group["params"]
            if any(weight not in self.start for weight in weights):
                raise RunError(
                    "l2_start: this engine trains copies of the weights, which have no start",
                    where=WHERE,
                    hint="remove trainer.l2_start",
                )
            for weight in weights:
                local(weight).lerp_(self.start[weight], share)


def local(weight: Tensor) -> Tensor:
    """Return a weight, or this process's part of a sharded one, which shares its memory."""
    return weight.to_local() if isinstance(weight, DTensor) else weight
