"""The reference step: full logits, full attention, both teachers on every row.

It follows the published recipe (with the shifted mask); `selfcheck` and the benchmarks compare
the fused path with it. No training uses it.
"""

from __future__ import annotations

from collections.abc import Mapping

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.nn import Module

from kdharness.harness.models.lm_head import causal_model
from kdharness.harness.types import IGNORE_INDEX
from kdharness.trainers.losses.fused import labelled_positions


def forward(
    model: Module, batch: Mapping[str, Tensor], *, attention: bool
) -> tuple[Tensor, tuple[Tensor, ...]]:
    """Return fp32 logits [B, T, V] and, with `attention`, the probabilities of every layer."""
    causal = causal_model(model)
    used = causal.config._attn_implementation
    if attention and used != "eager":
        causal.set_attn_implementation("eager")
    try:
        out = model(
            input_ids=batch["input_ids"],
            attention_mask=batch["attention_mask"],
            output_attentions=attention,
            use_cache=False,
        )
    finally:
        if attention and used != "eager":
            causal.set_attn_implementation(used)
    return out.logits.float(), out.attentions


def reference_sft(student: Module, batch: Mapping[str, Tensor]) -> Tensor:
    """Return the mean cross-entropy over labelled positions."""
    logits, _ = forward(student, batch, attention=False)
    flat = logits[:, :-1].reshape(-1, logits.shape[-1])
    return F.cross_entropy(flat, batch["labels"][:, 1:].reshape(-1), ignore_index=IGNORE_INDEX)


def prediction_kl(student: Tensor, teacher: Tensor, mask: Tensor, temperature: float) -> Tensor:
    """Return the mean over masked positions of T² · KL(teacher ‖ student), computed for all."""
    log_q = F.log_softmax(student / temperature, -1)
    log_p = F.log_softmax(teacher / temperature, -1)
    rows = (log_p.exp() * (log_p - log_q)).sum(-1)
    return temperature**2 * (rows * mask).sum() / mask.sum()


def reference_kd(
    student: Module,
    teacher: Module,
    batch: Mapping[str, Tensor],
    layers: Mapping[int, int],
    *,
    temperature: float = 1.0,
    attention_weight: float = 1.0,
    ntp: bool = False,
) -> Tensor:
    """Return prediction plus attention loss; `ntp` also computes cross-entropy, as published."""
    mask = labelled_positions(batch["labels"])
    with torch.no_grad():
        zt, at = forward(teacher, batch, attention=bool(layers))
    zs, as_ = forward(student, batch, attention=bool(layers))
    loss = prediction_kl(zs, zt, mask, temperature)
    if ntp:
        loss = loss + 0.0 * _both_losses(zs, zt, batch)
    total = zs.new_zeros(())
    for below, above in layers.items():
        ours, theirs = as_[below], at[above]
        if ours.shape[1] != theirs.shape[1]:
            ours, theirs = ours.mean(1, keepdim=True), theirs.mean(1, keepdim=True)
        tiny = torch.finfo(torch.float32).tiny
        rows = theirs * (theirs.clamp(min=tiny).log() - ours.clamp(min=tiny).log())
        total = total + (rows.sum(-1).mean(1) * mask).sum()
    if layers:
        loss = loss + attention_weight * total / (mask.sum() * len(layers))
    return loss


def reference_dae(
    student: Module,
    reference: Module,
    expert: Module,
    batch: Mapping[str, Tensor],
    *,
    temperature: float = 1.0,
    ntp: bool = False,
) -> Tensor:
    """Run both teachers on every row; kind 0 follows the first one, other kinds the second."""
    mask = labelled_positions(batch["labels"])
    with torch.no_grad():
        zr, _ = forward(reference, batch, attention=False)
        ze, _ = forward(expert, batch, attention=False)
    zs, _ = forward(student, batch, attention=False)
    chosen = torch.where(batch["kind"].ne(0)[:, None, None], ze, zr)
    loss = prediction_kl(zs, chosen, mask, temperature)
    return loss + 0.0 * _both_losses(zs, chosen, batch) if ntp else loss


def _both_losses(student: Tensor, teacher: Tensor, batch: Mapping[str, Tensor]) -> Tensor:
    """Return the cross-entropy of both sides, as published: in the graph, but weighted by 0."""
    flat = batch["labels"][:, 1:].reshape(-1)
    losses = [
        F.cross_entropy(z[:, :-1].reshape(-1, z.shape[-1]), flat, ignore_index=IGNORE_INDEX)
        for z in (student, teacher)
    ]
    return losses[0] + losses[1]
