"""The published step, written apart from the code under test: whole logits, whole attention.

Eager attention probabilities of every layer, full-vocabulary fp32 logits of every position, both
teachers on every row. Slow, hungry and obviously right.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor


def shifted(labels: Tensor) -> Tensor:
    """Positions whose next token is labelled."""
    mask = torch.zeros(labels.shape, dtype=torch.bool)
    for b in range(labels.shape[0]):
        for t in range(labels.shape[1] - 1):
            mask[b, t] = labels[b, t + 1] != -100
    return mask


def run(model: Any, batch: dict[str, Tensor], *, attention: bool) -> tuple[Tensor, Any]:
    """Whole fp32 logits and, if asked for, every layer's attention probabilities."""
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
    """KL(a || b) over the last axis, zero probabilities saying nothing."""
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
    """L = (1 − λ) L_ntp + λ (L_pred + γ L_attn), over one batch."""
    mask, layers = shifted(batch["labels"]), layers or {}
    n = mask.sum()
    with torch.no_grad():
        zt, at = run(teacher, batch, attention=bool(layers))
    zs, as_ = run(student, batch, attention=bool(layers))
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
    """Next-token loss: the textbook shift."""
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
    """Both teachers on every row, the row's own one chosen afterwards."""
    mask = shifted(batch["labels"])
    with torch.no_grad():
        zr, ze = run(reference, batch, attention=False)[0], run(expert, batch, attention=False)[0]
    zs, _ = run(student, batch, attention=False)
    domain = batch["kind"].bool()
    zt = torch.where(domain[:, None, None], ze, zr)
    p, q = (zt / temperature).softmax(-1), (zs / temperature).log_softmax(-1)
    return temperature**2 * (p * (p.log() - q))[mask].sum() / mask.sum()
