"""The load-balancing loss of a mixture's router, over a whole optimizer step.

Fedus et al., *Switch Transformers*, arXiv 2101.03961, equations 4 to 6: E · Σ f_e P_e, with f_e the
share of assignments that expert e receives and P_e its mean probability, over all layers and real
tokens. f and P belong to the step: their product over each micro-batch alone would depend on how
the step is split.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor


@dataclass(frozen=True)
class RouterCounts:
    """Assignments to each expert [E], and the number of (layer, token) pairs they come from."""

    assignments: Tensor
    rows: Tensor

    def __add__(self, other: RouterCounts) -> RouterCounts:
        return RouterCounts(self.assignments + other.assignments, self.rows + other.rows)


def router_weight(causal: Any) -> float:
    """Return the weight of a model's router loss; 0 if it has none or does not ask for it."""
    if not getattr(causal.config, "output_router_logits", False):
        return 0.0
    return float(getattr(causal.config, "router_aux_loss_coef", 0.0) or 0.0)


def router_counts(logits: Sequence[Tensor], attention_mask: Tensor, top_k: int) -> RouterCounts:
    """Return the assignments of real tokens over all layers.

    Args:
        logits: of each layer's router [B · T, E].
        attention_mask: [B, T] which tokens are real.
        top_k: experts per token.
    """
    real = attention_mask.reshape(-1).to(torch.float32)
    assignments = torch.zeros(logits[0].shape[-1], device=real.device)
    with torch.no_grad():
        for layer in logits:
            chosen = layer.topk(top_k, -1).indices
            assignments.scatter_add_(0, chosen.reshape(-1), real.repeat_interleave(top_k))
    return RouterCounts(assignments, real.sum() * len(logits))


def router_loss(logits: Sequence[Tensor], attention_mask: Tensor, step: RouterCounts) -> Tensor:
    """Return a micro-batch's share of the step's loss, which the shares add up to.

    Args:
        logits: of each layer's router [B · T, E].
        attention_mask: [B, T] which tokens are real.
        step: the counts of the whole step.
    """
    real = attention_mask.reshape(-1, 1).to(torch.float32)
    probabilities = sum((layer.float().softmax(-1) * real).sum(0) for layer in logits)
    shares = step.assignments / step.rows
    loss: Tensor = len(shares) * (shares * probabilities / step.rows).sum()
    return loss
