"""The inner part of the head's loss in Triton: the same values as `losses.fused.chunk_loss`."""

from __future__ import annotations

import torch
import triton
from torch import Tensor

from kdharness.harness.models.lm_head import Head, apply_head
from kdharness.trainers.losses.fused import Mix
from kdharness.trainers.losses.fused import chunk_loss as reference
from kdharness.trainers.losses.top_k import TopK
from kdharness.trainers.losses.triton_chunk import DIVERGENCES, Loss, row_loss

BLOCK = 4096
"""Ids of a row that a program reads at once."""


def chunk_loss(
    logits: Tensor,
    student: Head,
    teacher: tuple[Head, Tensor] | TopK | None,
    targets: Tensor | None,
    rows: slice,
    mix: Mix,
) -> tuple[Tensor, Tensor, Tensor]:
    """Return (T² · divergence, cross-entropy, gradient) of a chunk; `logits` is overwritten.

    A cached distribution has k + 1 outcomes, not V: it is left to the reference.
    """
    if isinstance(teacher, TopK):
        return reference(logits, student, teacher, targets, rows, mix)
    if mix.divergence not in DIVERGENCES:
        raise ValueError(f"the kernels have no divergence {mix.divergence!r}")
    theirs, divergence = logits, ""
    width = shared = logits.shape[1]
    if teacher is not None and mix.kl_weight:
        head, hidden = teacher
        theirs, divergence = apply_head(head, hidden[rows]), mix.divergence
        shared = min(student.vocab or shared, shared, theirs.shape[1])
    loss = Loss(
        divergence,
        mix.beta,
        cross_entropy=targets is not None,
        same=targets is not None and shared == width and mix.temperature == 1.0,
        softcap=float(student.softcap),
        block=min(BLOCK, triton.next_power_of_2(width)),
        interpreted=triton.knobs.runtime.interpret,
    )
    compute = student.weight.dtype
    narrow = compute in (torch.bfloat16, torch.float16)
    gradient = torch.empty_like(logits, dtype=compute) if narrow else logits
    kl, ce = logits.new_zeros(2, logits.shape[0])
    with torch.cuda.device_of(logits):
        row_loss[(logits.shape[0],)](
            (logits, logits.stride(0)),
            (theirs, theirs.stride(0)),
            (gradient, gradient.stride(0)),
            logits if targets is None else targets[rows],
            kl,
            ce,
            width,
            shared,
            float(mix.temperature),
            float(mix.kl_weight * mix.temperature),
            float(mix.ce_weight),
            float(student.scale),
            loss,
            num_warps=8,
        )
    return kl.sum() * mix.temperature**2, ce.sum(), gradient.to(compute)
