"""Fields that choose how losses are computed, which does not change what they are."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field

from kdharness.harness.config.base import ADDED, formerly

KernelsName = Literal["reference", "triton"]

Kernels = Annotated[
    KernelsName,
    Field(
        title="Kernels",
        description=(
            "What computes the losses. reference: PyTorch. triton: kernels for CUDA GPUs with the "
            "same values up to rounding; their speed is modelled, not measured."
        ),
        json_schema_extra=ADDED,
    ),
]

Chunk = Annotated[
    int | None,
    Field(
        ge=1,
        title="Rows of logits at once",
        description=(
            "Positions whose logits are in memory at once. Default: 128 on a CPU; on a CUDA GPU "
            "what fits in 1 GiB, from 512 to 4,096. Lower it to save memory."
        ),
        # The default was 128 everywhere.
        json_schema_extra=formerly(128),
    ),
]

BLOCK = 64
"""Default of `attention_block`."""


def check_block(kernels: KernelsName, block: int) -> None:
    """Refuse a block size that the kernels would not use.

    Raises:
        ValueError: attention_block is set, and kernels are not the reference.
    """
    if kernels != "reference" and block != BLOCK:
        raise ValueError(
            f"attention_block: {block} is for kernels: reference; {kernels} keeps no block of "
            "scores in memory: remove attention_block"
        )
