"""Number formats of a training: of weights, products, gradients and optimizer state.

In bf16 a weight moves only if half the distance to its neighbour is below the step, so training in
plain bf16 loses most of what it learns at usual learning rates (arXiv 2010.06192). `mixed` keeps
fp32 weights and computes in bf16; `bf16-sr` keeps bf16 weights and rounds their updates
stochastically, which is right on average.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal, get_args

from kdharness.harness.errors import ConfigError

PrecisionName = Literal["auto", "fp32", "mixed", "bf16-sr", "bf16"]
OldPrecision = Literal["auto", "float32", "bfloat16", "float16"]
Dtype = Literal["float32", "bfloat16"]

BYTES: dict[str, int] = {"float32": 4, "bfloat16": 2, "float16": 2}
PRECISIONS: tuple[str, ...] = get_args(PrecisionName)


@dataclass(frozen=True)
class Precision:
    """How a training computes.

    Attributes:
        name: the setting it comes from.
        weights: dtype of the student's weights in memory; with LoRA, of the frozen base.
        trained: dtype of the weights that are trained, and of their gradients.
        autocast: whether products run in bf16 whatever the dtype of the weights.
        stochastic: whether updates are rounded stochastically; optimizer state is then fp32.
    """

    name: str
    weights: Dtype
    trained: Dtype
    autocast: bool = False
    stochastic: bool = False

    @property
    def compute(self) -> Dtype:
        """Dtype of the student's matrix products."""
        return "bfloat16" if self.autocast else self.trained


_FULL = {
    "fp32": Precision("fp32", "float32", "float32"),
    "mixed": Precision("mixed", "float32", "float32", autocast=True),
    "bf16-sr": Precision("bf16-sr", "bfloat16", "bfloat16", stochastic=True),
    "bf16": Precision("bf16", "bfloat16", "bfloat16"),
}
_LORA = {
    "fp32": _FULL["fp32"],
    # A frozen base has no updates to lose, so it needs no fp32 copy.
    "mixed": Precision("mixed", "bfloat16", "float32", autocast=True),
    "bf16": _FULL["bf16"],
}


def precision_of(name: str, old: str, *, lora: bool, has_bf16: bool) -> Precision:
    """Return the precision of a training on a device.

    Args:
        name: `trainer.precision`.
        old: `trainer.dtype`, its former name, which counts if `name` is `auto`.
        lora: whether an adapter is trained instead of all weights.
        has_bf16: whether the device computes in bf16 in hardware.

    Raises:
        ConfigError: stochastic rounding of adapters.
    """
    if name == "auto" and old != "auto":
        # With LoRA, bf16 weights have always had fp32 adapters.
        name = {"float32": "fp32", "bfloat16": "mixed" if lora else "bf16"}[old]
    if name == "auto":
        name = "mixed" if has_bf16 else "fp32"
    if lora and name == "bf16-sr":
        raise ConfigError(
            "precision: bf16-sr is for training all weights; with LoRA the adapter is fp32 and "
            "takes little memory: set precision: mixed",
            where="trainer.precision",
        )
    return (_LORA if lora else _FULL)[name]


USABLE = 0.9
"""Share of a GPU's memory that a plan may fill: CUDA itself and fragmentation take the rest."""


def choose_precision(planned: Mapping[str, float], device: float | None) -> tuple[str, str]:
    """Return what `auto` is on a GPU with bf16, and why.

    Args:
        planned: precision -> planned bytes: of `mixed`, and of `bf16-sr` where it can be used.
        device: bytes of the GPU's memory; None if unknown.
    """
    if device is None:
        return "mixed", "the GPU's memory is not known here"
    room = USABLE * device
    sizes = ", ".join(f"{name} needs {size / 1e9:.1f} GB" for name, size in planned.items())
    reason = f"{sizes}, and the GPU has {device / 1e9:.1f} GB"
    if planned["mixed"] <= room:
        return "mixed", reason
    if planned.get("bf16-sr", room + 1) <= room:
        return "bf16-sr", reason
    return "mixed", f"{reason}: it does not fit"
