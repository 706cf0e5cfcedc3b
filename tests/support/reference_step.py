"""Reference implementation of the published training step, independent of the code under test.

Eager attention probabilities of every layer, full-vocabulary fp32 logits of every position, both
teachers on every row. Slow and memory-hungry, but easy to verify.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor


def shifted(labels: Tensor) -> Tensor:
    """Return the mask of positions whose next token is labelled."""
    mask = torch.zeros(labels.shape, dtype=torch.bool)
    for b in range(labels.shape[0]):
        for t in range(labels.shape[1] - 1):
            mask[b, t] = labels[b, t + 1] != -100
    return mask


def forward(model: Any, batch: dict[str, Tensor], *, attention: bool) -> tuple[Tensor, Any]:
    """Return the full fp32 logits and, if requested, every layer's attention probabilities."""
    before = model.config._attn_implementation
    if attention:
        model.set_attn_implementation("eager")
    out = model(
        input_ids=batch["input_ids"],
        attention_mask=batch["attention_mask"],
        output_attentions=attention,
        use_cache=False,
    )
    model.set_attn_implementation(before)
    return out.logits.float(), out.attentions


def kl_rows(a: Tensor, b: Tensor) -> Tensor:
    """Return KL(a || b) over the last axis, ignoring zero probabilities."""
    log_a, log_b = a.clamp(min=1e-38).log(), b.clamp(min=1e-38).log()
    return torch.where(a > 0, a * (log_a - log_b), 0.0).sum(-1)


def kd_loss(
    student: Any,
    teacher: Any,
    batch: dict[str, Tensor],
    *,
    temperature: float = 1.0,
    lam: float = 1.0,
    gamma: float = 1.0,
    layers: dict[int, int] | None = None,
) -> Tensor:
    """Return L = (1 − λ) L_ntp + λ (L_pred + γ L_attn) over one batch."""
    mask, layers = shifted(batch["labels"]), layers or {}
    n = mask.sum()
    with torch.no_grad():
        zt, at = forward(teacher, batch, attention=bool(layers))
    zs, as_ = forward(student, batch, attention=bool(layers))
    p, q = (zt / temperature).softmax(-1), (zs / temperature).log_softmax(-1)
    pred = temperature**2 * (p * (p.log() - q))[mask].sum() / n
    attn = torch.zeros(())
    for s, t in layers.items():
        a, b = at[t], as_[s]
        if a.shape[1] != b.shape[1]:
            a, b = a.mean(1, keepdim=True), b.mean(1, keepdim=True)
        rows = kl_rows(a, b).mean(1)
        attn = attn + rows[mask].sum() / n / len(layers)
    loss = lam * (pred + gamma * attn)
    return loss + (1 - lam) * ntp_loss(zs, batch["labels"]) if lam < 1 else loss


def ntp_loss(logits: Tensor, labels: Tensor) -> Tensor:
    """Return the next-token loss, with the textbook shift."""
    return torch.nn.functional.cross_entropy(
        logits[:, :-1].reshape(-1, logits.shape[-1]), labels[:, 1:].reshape(-1), ignore_index=-100
    )


def dae_loss(
    student: Any,
    reference: Any,
    expert: Any,
    batch: dict[str, Tensor],
    *,
    temperature: float = 1.0,
) -> Tensor:
    """Run both teachers on every row, then select each row's teacher."""
    mask = shifted(batch["labels"])
    with torch.no_grad():
        zr, ze = (
            forward(reference, batch, attention=False)[0],
            forward(expert, batch, attention=False)[0],
        )
    zs, _ = forward(student, batch, attention=False)
    domain = batch["kind"].bool()
    zt = torch.where(domain[:, None, None], ze, zr)
    p, q = (zt / temperature).softmax(-1), (zs / temperature).log_softmax(-1)
    return temperature**2 * (p * (p.log() - q))[mask].sum() / mask.sum()
