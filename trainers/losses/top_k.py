"""Distributions in k tokens per position: how they are made, and how a sampled tail is read.

Shapes: n labelled positions, V vocabulary, k tokens.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch
from torch import Tensor

from kdharness.harness.models.lm_head import Head, apply_head, rows_at_once


@dataclass(frozen=True)
class TopK:
    """A cached teacher distribution at temperature T, with k tokens per position.

    Without `entropy` these are the top-k tokens, and the remaining mass is one bucket: the
    divergence over k + 1 outcomes is a lower bound of the true one. With it, part of the tokens
    are sampled from the tail: an unbiased estimate of the whole distribution, for forward KL.

    Attributes:
        ids: [n, k] token ids.
        logp: [n, k] log-probabilities; those of the last `drawn` tokens are within the tail.
        entropy: [n] of the whole distribution, in nats, or None.
        drawn: number of sampled tokens; 0 if all tokens have weights instead, where sampled ones
            share the tail's mass (caches of older versions).
    """

    ids: Tensor
    logp: Tensor
    entropy: Tensor | None = None
    drawn: int = 0


@torch.no_grad()
def top_k(
    head: Head,
    hidden: Tensor,
    k: int,
    temperature: float,
    chunk: int | None,
    vocab: int,
    sampled: int = 0,
    generator: torch.Generator | None = None,
) -> TopK:
    """Return a teacher's distributions at `temperature`, with k tokens per position.

    The top k − `sampled` tokens with their log-probabilities; `sampled` more drawn from the tail
    (with replacement, by probability), with their log-probabilities within the tail.
    """
    ids, logp, entropy = [], [], []
    size = rows_at_once(chunk, head.weight.shape[0], on_cuda=hidden.is_cuda)
    for start in range(0, hidden.shape[0], size):
        logits = apply_head(head, hidden[start : start + size])
        if vocab:
            logits = logits[:, :vocab]
        values = torch.log_softmax(logits / temperature, -1)
        best = values.topk(min(k - sampled, values.shape[-1]), -1)
        ids.append(best.indices)
        logp.append(best.values)
        if sampled:
            p = values.exp()
            entropy.append(-(p * values).sum(-1))
            rest = p.scatter(-1, best.indices, 0.0)
            mass = rest.sum(-1, keepdim=True)
            # If the kept tokens hold all the mass, sampling still needs a valid distribution.
            rest = torch.where(mass > 0, rest, torch.ones_like(rest))
            drawn = torch.multinomial(rest, sampled, replacement=True, generator=generator)
            ids[-1] = torch.cat([ids[-1], drawn], -1)
            within = rest.gather(-1, drawn) / rest.sum(-1, keepdim=True)
            logp[-1] = torch.cat([logp[-1], within.log()], -1)
    return TopK(torch.cat(ids), torch.cat(logp), torch.cat(entropy) if sampled else None, sampled)


def share_tail(target: TopK) -> TopK:
    """Return a sampled distribution as older caches have it: drawn tokens share the tail's mass."""
    kept = target.ids.shape[-1] - target.drawn
    mass = 1.0 - target.logp[:, :kept].float().exp().sum(-1, keepdim=True)
    share = (mass.clamp(min=torch.finfo(torch.float32).tiny) / target.drawn).log()
    logp = torch.cat([target.logp[:, :kept], share.expand(-1, target.drawn)], -1)
    return replace(target, logp=logp, drawn=0)


def tail_weights(lq: Tensor, target: TopK) -> tuple[Tensor, Tensor]:
    """Return weights [n, V] whose expectation is the teacher's p, and −Σ w log q.

    The kept tokens have their probabilities. The tail has mass P for the teacher and Q for the
    student; a draw's ratio is r = (q / Q) / (p / P). The student's own shape, P · q / Q, is the
    control variate: it enters with a coefficient β, and each of the m draws adds
    (P / m) (1 − β r). A draw's β comes from the other draws alone, which keeps the estimate
    unbiased: their effective sample size as a share, r̄² / mean(r²), times min(1, r̄)², as a small
    r̄ says that the student's mass lies where nothing was drawn.
    """
    kept, m = target.ids.shape[-1] - target.drawn, target.drawn
    ids, drawn = target.ids[:, :kept], target.ids[:, kept:]
    p = target.logp[:, :kept].float().exp()
    mass = (1.0 - p.sum(-1, keepdim=True)).clamp(min=0.0)
    weights = lq.exp().scatter_(-1, ids, 0.0)
    tiny = torch.finfo(torch.float32).tiny
    student_mass = weights.sum(-1, keepdim=True).clamp(min=tiny)
    ratio = (lq.gather(-1, drawn) - student_mass.log() - target.logp[:, kept:].float()).exp()
    ratio.clamp_(max=1e6)  # finite, where the teacher's tail has next to no mass
    others = max(m - 1, 1)
    mean = (ratio.sum(-1, keepdim=True) - ratio) / others
    square = ((ratio * ratio).sum(-1, keepdim=True) - ratio * ratio) / others
    beta = (mean * mean / square.clamp(min=tiny)).clamp(0, 1) * mean.clamp(0, 1) ** 2
    weights.mul_(mass / student_mass * beta.mean(-1, keepdim=True))
    weights.scatter_add_(-1, drawn, mass / m * (1.0 - beta * ratio)).scatter_(-1, ids, p)
    # 0 · −inf is 0: a token that the student excludes keeps no weight of its own shape.
    return weights, -torch.where(weights == 0, 0.0, weights * lq).sum()
