"""Losses on labelled positions that never build a [B, T, V] tensor: pure functions.

The published recipe keeps full-vocabulary fp32 logits of student and teacher for every position.
Here the head is applied to labelled positions only, one chunk of rows at a time; loss *and*
gradient of a chunk are computed in the forward pass, so no logits are saved for the backward pass
(docs/method.md#losses, #computation).

Shapes: n labelled positions, h hidden size, V vocabulary, k tokens kept by a teacher cache.
All divergences are in nats, summed over positions; the caller divides by N.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, NamedTuple, Protocol

import torch
from torch import Tensor

from kdharness.harness.models.lm_head import Head, apply_head, rows_at_once
from kdharness.harness.types import IGNORE_INDEX
from kdharness.trainers.losses.divergences import divergence_rows
from kdharness.trainers.losses.token_weights import TokenWeights
from kdharness.trainers.losses.top_k import TopK, tail_weights


@dataclass(frozen=True)
class Mix:
    """The loss: ce_weight · CE + kl_weight · T² · divergence(teacher, student).

    `chunk` positions have their logits in memory at once; None is `rows_at_once`. `token_weights`
    weights each position's cross-entropy; None gives all of them weight 1.
    """

    temperature: float = 1.0
    divergence: str = "forward_kl"
    beta: float = 0.5
    kl_weight: float = 1.0
    ce_weight: float = 0.0
    chunk: int | None = None
    token_weights: TokenWeights | None = None


class Span(NamedTuple):
    """Neighbouring positions with a loss of their own.

    Attributes:
        size: how many.
        mix: their loss.
        gold: whether their next tokens are the data's, for cross-entropy.
    """

    size: int
    mix: Mix
    gold: bool = True


class ChunkLoss(Protocol):
    """Computes the loss of a chunk of logits: `chunk_loss`, or a kernel in its place."""

    def __call__(
        self,
        logits: Tensor,
        student: Head,
        teacher: tuple[Head, Tensor] | TopK | None,
        targets: Tensor | None,
        rows: slice,
        mix: Mix,
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Return (T² · divergence, cross-entropy, gradient); see `chunk_loss`."""
        ...


@dataclass
class Parts:
    """Unweighted sums over positions, for the log: T² · divergence and cross-entropy, in nats.

    `spans` has the divergence of each span.
    """

    kl: Tensor | None = None
    ce: Tensor | None = None
    spans: list[Tensor] = field(default_factory=list)


def labelled_positions(labels: Tensor) -> Tensor:
    """Return the mask [B, T] of positions that predict a labelled token: labels shifted left by 1.

    The published code does not shift: it skips the position that predicts the first answer token
    and trains one past the end (docs/method.md#differences-from-the-published-code).
    """
    mask = torch.zeros_like(labels, dtype=torch.bool)
    mask[:, :-1] = labels[:, 1:].ne(IGNORE_INDEX)
    return mask


def full_divergence(zs: Tensor, zt: Tensor, mix: Mix) -> tuple[Tensor, Tensor]:
    """Return the summed divergence of two logit chunks [c, V], and its gradient w.r.t. zs.

    Both chunks are overwritten: forward KL, the common case, works in place in three buffers.
    """
    t = mix.temperature
    lq = torch.log_softmax(zs.div_(t) if t != 1.0 else zs, -1)
    lp = torch.log_softmax(zt.div_(t) if t != 1.0 else zt, -1)
    if mix.divergence == "forward_kl":
        # Σ p (log p − log q) without a fourth buffer.
        p = torch.exp(lp, out=zt)
        total = torch.dot(p.view(-1), lp.sub_(lq).view(-1))
        return total, lq.exp_().sub_(p).div_(t)
    value, slope = divergence_rows(lp, lq, mix.divergence, mix.beta)
    grad = slope.sub_(lq.exp_().mul_(slope.sum(-1, keepdim=True)))
    return value.sum(), grad.div_(t)


def _topk_divergence(zs: Tensor, target: TopK, mix: Mix) -> tuple[Tensor, Tensor]:
    """Do the same as `full_divergence` for a cached teacher: k tokens and one tail bucket.

    Neither side is renormalised: both distributions are over the same k + 1 outcomes.
    """
    t = mix.temperature
    scaled = zs.div_(t) if t != 1.0 else zs
    if target.entropy is not None:
        return _sampled_divergence(scaled, target, t)
    lse = torch.logsumexp(scaled, -1, keepdim=True)
    lq_top = scaled.gather(-1, target.ids) - lse
    rest = scaled.scatter(-1, target.ids, float("-inf"))
    tiny = torch.finfo(torch.float32).tiny
    floor = math.log(tiny)
    # An empty bucket (k is the whole vocabulary, or the k tokens hold all the mass) stays finite.
    lq_rest = (torch.logsumexp(rest, -1, keepdim=True) - lse).clamp(min=floor)
    del rest
    kept = target.logp.float().exp().sum(-1, keepdim=True).clamp(max=1.0)
    lp_rest = torch.log1p(-kept).clamp(min=floor)
    lp = torch.cat([target.logp.float(), lp_rest], -1)
    lq = torch.cat([lq_top, lq_rest], -1)
    value, slope = divergence_rows(lp, lq, mix.divergence, mix.beta)
    total = slope.sum(-1, keepdim=True)
    share = slope[:, -1:] / lq_rest.exp().clamp(min=tiny)
    grad = scaled.sub_(lse).exp_().mul_(share - total)
    grad.scatter_(-1, target.ids, slope[:, :-1] - lq_top.exp() * total)
    return value.sum(), grad.div_(t)


def _sampled_divergence(scaled: Tensor, target: TopK, t: float) -> tuple[Tensor, Tensor]:
    """Return forward KL as −H(p) − Σ w log q over all tokens, and its gradient.

    The weights w are unbiased estimates of p, so loss and gradient are unbiased.
    """
    assert target.entropy is not None
    lq = torch.log_softmax(scaled, -1)
    if target.drawn:
        weights, total = tail_weights(lq, target)
        mass = weights.sum(-1, keepdim=True)
        return total - target.entropy.float().sum(), lq.exp_().mul_(mass).sub_(weights).div_(t)
    shares = target.logp.float().exp()
    total = -(shares * lq.gather(-1, target.ids)).sum() - target.entropy.float().sum()
    grad = lq.exp_().scatter_add_(-1, target.ids, -shares)
    return total, grad.div_(t)


def _products_dtype(hidden: Tensor, weight: Tensor) -> torch.dtype:
    """Return the dtype of the head's products: autocast's where it is on."""
    device = hidden.device.type
    return torch.get_autocast_dtype(device) if torch.is_autocast_enabled(device) else weight.dtype


@torch.no_grad()
def token_losses(hidden: Tensor, head: Head, targets: Tensor, chunk: int | None = None) -> Tensor:
    """Return −log p of each labelled position's next token [n], in nats, chunk by chunk.

    Args:
        hidden: last hidden states at labelled positions [n, h].
        head: the model's head.
        targets: next tokens [n].
        chunk: as in `Mix`.
    """
    compute = _products_dtype(hidden, head.weight)
    rows = rows_at_once(chunk, head.weight.shape[0], on_cuda=hidden.is_cuda)
    losses = hidden.new_empty(hidden.shape[0], dtype=torch.float32)
    with torch.autocast(hidden.device.type, enabled=False):
        own = replace(head, weight=head.weight.to(compute))
        for start in range(0, hidden.shape[0], rows):
            part = slice(start, start + rows)
            logits = apply_head(own, hidden[part].to(compute))
            target = logits.gather(-1, targets[part, None]).squeeze(-1)
            losses[part] = torch.logsumexp(logits, -1) - target
    return losses


class _FusedHead(torch.autograd.Function):
    """The mixed loss summed over n positions; gradients are computed chunk by chunk in forward."""

    @staticmethod
    def forward(
        ctx: Any,
        hidden: Tensor,
        weight: Tensor,
        bias: Tensor | None,
        head: Head,
        teacher: tuple[Head, Tensor] | TopK | None,
        targets: Tensor | None,
        spans: Sequence[Span],
        parts: Parts,
        inner: ChunkLoss,
    ) -> Tensor:
        device, compute = hidden.device.type, _products_dtype(hidden, weight)
        with torch.autocast(device, enabled=False):
            return _FusedHead._forward(
                ctx, hidden, weight, bias, head, teacher, targets, spans, parts, inner, compute
            )

    @staticmethod
    def _forward(
        ctx: Any,
        hidden: Tensor,
        weight: Tensor,
        bias: Tensor | None,
        head: Head,
        teacher: tuple[Head, Tensor] | TopK | None,
        targets: Tensor | None,
        spans: Sequence[Span],
        parts: Parts,
        inner: ChunkLoss,
        compute: torch.dtype,
    ) -> Tensor:
        needs_hidden, needs_weight, needs_bias = ctx.needs_input_grad[:3]
        states, matrix = hidden.to(compute), weight.to(compute)
        student = Head(matrix, bias, head.scale, head.softcap, head.vocab)
        grad_h = torch.empty_like(states) if needs_hidden else None
        grad_w = torch.zeros_like(weight) if needs_weight else None
        grad_b = torch.zeros_like(bias) if needs_bias and bias is not None else None
        zero = torch.zeros((), dtype=torch.float32, device=hidden.device)
        parts.spans, ces = [zero.clone() for _ in spans], [zero.clone() for _ in spans]
        for number, rows in _chunks(spans, weight.shape[0], on_cuda=hidden.is_cuda):
            span = spans[number]
            logits = apply_head(student, states[rows])
            gold = targets if span.gold else None
            kl, ce, step = inner(logits, student, teacher, gold, rows, span.mix)
            parts.spans[number] += kl
            ces[number] += ce
            del logits
            if grad_h is not None:
                grad_h[rows] = step @ matrix
            if grad_w is not None:
                if grad_w.dtype == compute:
                    grad_w.addmm_(step.t(), states[rows])
                else:
                    grad_w += step.t() @ states[rows]
            if grad_b is not None:
                grad_b += step.sum(0)
            del step
        parts.kl, parts.ce = sum(parts.spans, zero), sum(ces, zero)
        ctx.grads = (grad_h, grad_w, grad_b)
        ctx.dtypes = (hidden.dtype,)
        total = zero
        for (_, mix, _), kl_sum, ce_sum in zip(spans, parts.spans, ces, strict=True):
            total = total + mix.kl_weight * kl_sum + mix.ce_weight * ce_sum
        return total

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, grad_output: Tensor) -> tuple[Tensor | None, ...]:
        if ctx.grads is None:
            raise RuntimeError("the fused loss supports only one backward pass")
        (grad_h, grad_w, grad_b), ctx.grads = ctx.grads, None
        # Scaled in place: these are the largest tensors in memory, and nothing else refers to them.
        for grad in (grad_h, grad_w, grad_b):
            if grad is not None:
                grad.mul_(grad_output.to(grad.dtype))
        if grad_h is not None:
            grad_h = grad_h.to(ctx.dtypes[0])
        return grad_h, grad_w, grad_b, None, None, None, None, None, None


def _chunks(spans: Sequence[Span], vocab: int, *, on_cuda: bool) -> Iterator[tuple[int, slice]]:
    """Yield (number of its span, its rows) of each chunk; a chunk is of one span."""
    start = 0
    for number, (wanted, mix, _) in enumerate(spans):
        chunk, end = rows_at_once(mix.chunk, vocab, on_cuda=on_cuda), start + wanted
        for first in range(start, end, chunk):
            yield number, slice(first, min(first + chunk, end))
        start = end


def chunk_loss(
    logits: Tensor,
    student: Head,
    teacher: tuple[Head, Tensor] | TopK | None,
    targets: Tensor | None,
    rows: slice,
    mix: Mix,
    weights: Tensor | None = None,
) -> tuple[Tensor, Tensor, Tensor]:
    """Return (T² · divergence, cross-entropy, gradient) of a chunk.

    The gradient is that of the products of hidden states and head, before the head's soft-cap and
    scale, and in the head's dtype.

    Args:
        logits: the student's [c, V]; overwritten.
        student: its head, whose weight is in the dtype of the products.
        teacher: as in `fused_loss`.
        targets: as in `fused_loss`.
        rows: which of all positions these are.
        mix: weights, temperature, divergence.
        weights: of all positions' cross-entropies [n]; None weighs each by 1.
    """
    zero = logits.new_zeros(())
    cap = 1.0 - (logits / student.softcap) ** 2 if student.softcap else None
    ce, grad = zero, None
    if targets is not None:
        wanted = targets[rows, None]
        logp = torch.log_softmax(logits, -1)
        losses = -logp.gather(-1, wanted)
        ce = losses.sum() if weights is None else (weights[rows, None] * losses).sum()
        if mix.ce_weight:
            grad = logp.exp_()
            grad.scatter_add_(-1, wanted, torch.full_like(wanted, -1, dtype=grad.dtype))
            if weights is not None:
                grad *= weights[rows, None]
            grad *= mix.ce_weight
    kl = zero
    if teacher is not None and mix.kl_weight:
        factor = mix.kl_weight * mix.temperature**2
        kl, kl_grad = _teacher_divergence(logits, teacher, rows, student.vocab, mix)
        kl = kl * mix.temperature**2
        if factor != 1.0:
            kl_grad *= factor
        width = kl_grad.shape[-1]
        if grad is not None:
            grad[:, :width] += kl_grad
        elif width == logits.shape[-1]:
            grad = kl_grad
        else:
            grad = torch.zeros_like(logits)
            grad[:, :width] = kl_grad
    if grad is None:
        grad = torch.zeros_like(logits)
    if cap is not None:
        grad *= cap
    if student.scale != 1.0:
        grad *= student.scale
    return kl, ce, grad.to(student.weight.dtype)


def _teacher_divergence(
    logits: Tensor, teacher: tuple[Head, Tensor] | TopK, rows: slice, vocab: int, mix: Mix
) -> tuple[Tensor, Tensor]:
    """Return the divergence from an online or a cached teacher, over the shared ids."""
    shared = logits if not vocab else logits[:, :vocab].clone()
    if isinstance(teacher, TopK):
        entropy = None if teacher.entropy is None else teacher.entropy[rows]
        part = replace(teacher, ids=teacher.ids[rows], logp=teacher.logp[rows], entropy=entropy)
        return _topk_divergence(shared, part, mix)
    head, hidden = teacher
    logits_t = apply_head(head, hidden[rows])
    if vocab:
        logits_t = logits_t[:, :vocab].contiguous()
    return full_divergence(shared, logits_t, mix)


def fused_loss(
    hidden: Tensor,
    head: Head,
    *,
    mix: Mix | Sequence[Span],
    teacher: tuple[Head, Tensor] | TopK | None = None,
    targets: Tensor | None = None,
    inner: ChunkLoss | None = None,
) -> tuple[Tensor, Parts]:
    """Return the summed loss of labelled positions and its unweighted parts.

    Args:
        hidden: the student's last hidden states at labelled positions [n, h].
        head: the student's head; a frozen weight gets no gradient and costs none.
        mix: weights, temperature, divergence; or spans of positions with their own, n in all.
        teacher: the teacher's head with its hidden states [n, h_t] at the same positions, or a
            cached distribution, or None.
        targets: next tokens [n] for cross-entropy; None to skip it.
        inner: computes a chunk; `chunk_loss` by default.

    Returns:
        (loss, parts): a scalar with a gradient, and detached sums for the log.
    """
    parts = Parts()
    weight, bias = head.weight, head.bias
    if not torch.is_grad_enabled():
        # Inside an autograd function, grad mode does not show that no gradient is needed.
        hidden, weight = hidden.detach(), weight.detach()
        bias = None if bias is None else bias.detach()
    inner = inner or chunk_loss
    spans = [Span(hidden.shape[0], mix)] if isinstance(mix, Mix) else mix
    loss: Tensor = _FusedHead.apply(  # type: ignore[no-untyped-call]
        hidden, weight, bias, head, teacher, targets, spans, parts, inner
    )
    return loss, parts
