"""Divergences between a teacher's and a student's distribution, with derivatives: pure functions.

p is the teacher, q the student; everything is in nats.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor


def _log_mixture(lp: Tensor, lq: Tensor, beta: float) -> Tensor:
    """Return log(β p + (1 − β) q)."""
    return torch.logaddexp(lp + math.log(beta), lq + math.log1p(-beta))


def divergence_rows(lp: Tensor, lq: Tensor, kind: str, beta: float) -> tuple[Tensor, Tensor]:
    """Return the divergence of each row and q · ∂D/∂q (up to a multiple of q).

    `lp` and `lq` [n, m] are log-probabilities of the teacher and the student over the same m
    outcomes. With s = q · ∂D/∂q, the gradient with respect to the student's logits is
    s − q · Σ s, in which a multiple of q cancels.

    forward_kl        KL(p ‖ q)
    reverse_kl        KL(q ‖ p)
    js                β KL(p ‖ m) + (1 − β) KL(q ‖ m), m = β p + (1 − β) q
    skew_kl           KL(p ‖ m)
    skew_reverse_kl   KL(q ‖ m)
    """
    p, q = lp.exp(), lq.exp()
    if kind == "forward_kl":
        return expected(p, lp - lq), -p
    if kind == "reverse_kl":
        slope = q * (lq - lp)
        return slope.sum(-1), slope
    lm = _log_mixture(lp, lq, beta)
    if kind == "js":
        toward_q = q * (lq - lm)
        value = beta * expected(p, lp - lm) + (1 - beta) * toward_q.sum(-1)
        return value, (1 - beta) * toward_q
    if kind == "skew_kl":
        return expected(p, lp - lm), -(1 - beta) * (lp + lq - lm).exp()
    if kind == "skew_reverse_kl":
        toward_q = q * (lq - lm)
        return toward_q.sum(-1), toward_q - (1 - beta) * (2 * lq - lm).exp()
    raise ValueError(f"unknown divergence {kind!r}")


def expected(p: Tensor, values: Tensor) -> Tensor:
    """Return Σ p · values over the last axis, with 0 · inf = 0 (an empty bucket adds nothing)."""
    return torch.where(p > 0, p * values, 0.0).sum(-1)
