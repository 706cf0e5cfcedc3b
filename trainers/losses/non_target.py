"""A divergence over every token but the target: what the reference thinks of the alternatives.

Xu et al., *Mask the Target*, arXiv 2605.29498: the row's next token is removed from both
distributions, the rest is renormalised, and only that is compared. The model may learn the target,
which another loss asks for, and keeps its preferences among all other tokens
(docs/method.md#dae-without-general-rows).
"""

from __future__ import annotations

import torch
from torch import Tensor

from kdharness.harness.models.lm_head import Head, apply_head
from kdharness.trainers.losses.fused import Mix, full_divergence
from kdharness.trainers.losses.top_k import TopK

REMOVED = -1e30
"""Logit of a removed token, at temperature 1: its probability is 0, and 0 · its logarithm too."""


def without_targets(logits: Tensor, targets: Tensor, temperature: float) -> Tensor:
    """Remove each position's target from its distribution, in place.

    Args:
        logits: [c, V].
        targets: next tokens [c].
        temperature: that of the divergence; below 1 it must not make the logit infinite.
    """
    places = targets[:, None].clamp(max=logits.shape[-1] - 1)
    # A token that only the student's tokenizer has is not among the ids that are compared.
    is_here = targets[:, None] < logits.shape[-1]
    removed = torch.where(is_here, REMOVED * min(temperature, 1.0), logits.gather(-1, places))
    return logits.scatter_(-1, places, removed)


def non_target_chunk(
    logits: Tensor,
    student: Head,
    teacher: tuple[Head, Tensor] | TopK | None,
    targets: Tensor | None,
    rows: slice,
    mix: Mix,
) -> tuple[Tensor, Tensor, Tensor]:
    """Return (T² · divergence over the other tokens, 0, gradient) of a chunk.

    The arguments are those of `losses.fused.chunk_loss`. The teacher's whole distribution is
    needed: of a token outside its top k nothing is known.
    """
    if targets is None or teacher is None or isinstance(teacher, TopK):
        raise ValueError("the divergence over non-target tokens needs targets and whole teachers")
    t, width = mix.temperature, student.vocab or logits.shape[-1]
    cap = 1.0 - (logits / student.softcap) ** 2 if student.softcap else None
    head, hidden = teacher
    theirs = apply_head(head, hidden[rows])[:, :width].contiguous()
    ours = logits if width == logits.shape[-1] else logits[:, :width].clone()
    total, part = full_divergence(
        without_targets(ours, targets[rows], t), without_targets(theirs, targets[rows], t), mix
    )
    part *= mix.kl_weight * t**2
    grad = part
    if width < logits.shape[-1]:
        grad = torch.zeros_like(logits)
        grad[:, :width] = part
    if cap is not None:
        grad *= cap
    if student.scale != 1.0:
        grad *= student.scale
    return total * t**2, logits.new_zeros(()), grad.to(student.weight.dtype)
