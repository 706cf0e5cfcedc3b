"""Weights that are no numbers: found before they are saved.

A loss and a gradient are looked at before every update, but the last update before a checkpoint
can still overflow, and a saved checkpoint replaces an older one that was good.
"""

from __future__ import annotations

import torch
import torch.distributed as dist
from torch import Tensor
from torch.nn import Module

from kdharness.harness.errors import RunError
from kdharness.trainers.l2_start import local

HINT = (
    "a lower trainer.learning_rate, more warm-up or fp32 often helps. The last saved checkpoint "
    "is kept."
)


@torch.no_grad()
def first_not_finite(model: Module) -> str:
    """Return the name of the first trained weight with a NaN or infinite value; "" if none has.

    Of a sharded model, every process looks at its own part.
    """
    # The extremes need no copy of a weight, and a NaN is both of them.
    trained = [
        (name, local(weight))
        for name, weight in model.named_parameters()
        if weight.requires_grad and weight.is_floating_point() and local(weight).numel()
    ]
    if not trained:
        return ""
    finite: Tensor = torch.stack(
        [torch.stack(torch.aminmax(weight)).isfinite().all().cpu() for _, weight in trained]
    )
    return next(
        (name for (name, _), good in zip(trained, finite.tolist(), strict=True) if not good), ""
    )


def refuse_not_finite(model: Module, step: int) -> None:
    """Refuse to save weights that are no numbers; every process takes part, and all agree.

    Raises:
        RunError: the first such weight.
    """
    found = first_not_finite(model)
    if dist.is_initialized() and dist.get_world_size() > 1:
        every: list[str] = [""] * dist.get_world_size()
        dist.all_gather_object(every, found)
        found = next(filter(None, every), "")
    if found:
        raise RunError(
            f"the weights are not finite after step {step}: {found} has NaN or infinite values",
            hint=f"nothing was saved of this step; {HINT}",
        )
