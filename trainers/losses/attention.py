"""The attention loss, streamed: the KL of attention rows without a [B, H, T, T] tensor.

Both models run their usual fast attention. A hook registered with transformers'
`AttentionInterface` records the teacher's post-RoPE queries and keys of mapped layers; in the
student's forward pass it computes KL(A_teacher ‖ A_student) in blocks of labelled rows from
queries and keys. The gradient with respect to scores is A_s − A_t, recomputed block by block in the
backward pass (docs/method.md#attention).

Rows are compared over the keys that both layers attend to: if a sliding-window layer is mapped
to a full one, the teacher's mass outside the student's window would make the KL infinite. Every
row attends at least to itself.

Shapes: H heads, G key heads (grouped-query attention), T positions, d head size.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any, Protocol, cast

import torch
from torch import Tensor

from kdharness.harness.errors import ModelError
from kdharness.harness.models.lm_head import fp32_product


@dataclass(frozen=True)
class Rows:
    """Queries and keys of one layer, q [B, H, T, d] and k [B, G, T, d], with score settings."""

    q: Tensor
    k: Tensor
    scale: float
    window: int = 0
    softcap: float = 0.0


class Unpacks(Protocol):
    """A packing of rows: `kdharness.trainers.data.layout.Packing`."""

    @property
    def shape(self) -> tuple[int, int]:
        """(B, T)."""
        ...

    def unpack(self, values: Tensor, dim: int = 1) -> Tensor:
        """Return values [..., n, ...] along a dimension as [..., B · T, ...]."""
        ...


class AttentionKL(Protocol):
    """Computes one layer pair's KL: `attention_kl`, or a kernel in its place."""

    def __call__(
        self, student: Rows, teacher: Rows, tape: AttentionTape, *, dry: bool = False
    ) -> Tensor:
        """Return the KL summed over heads and labelled rows; see `attention_kl`."""
        ...


@dataclass
class AttentionTape:
    """The data exchanged between the two models' layers in one step.

    Attributes:
        layers: student layer -> teacher layer.
        rows: labelled positions of each sample, ascending.
        keys: [B, T] which keys are real tokens and not padding.
        block: number of score rows in memory at once.
        places: `rows` as Python numbers, for which a device need not be waited for.
        packing: how the models' tokens are packed; their queries and keys are unpacked by it.
        teacher: filled by the teacher's forward pass: layer -> Rows.
        terms: filled by the student's forward pass: layer -> summed KL over heads and rows.
        kl: what compares two layers.
    """

    layers: Mapping[int, int]
    rows: Sequence[Tensor]
    keys: Tensor
    block: int = 64
    places: Sequence[Sequence[int]] = ()
    packing: Unpacks | None = None
    teacher: dict[int, Rows] = field(default_factory=dict)
    terms: dict[int, Tensor] = field(default_factory=dict)
    heads: int = 1
    kl: AttentionKL = field(default_factory=lambda: attention_kl)

    def padded(self, heads: Tensor) -> Tensor:
        """Return queries or keys of packed rows [1, H, n, d] as [B, H, T, d]; others unchanged."""
        if self.packing is None:
            return heads
        size = (heads.shape[1], *self.packing.shape, heads.shape[-1])
        return self.packing.unpack(heads[0]).view(size).transpose(0, 1)

    @cached_property
    def flat(self) -> tuple[Tensor, Tensor]:
        """The labelled rows as flat indices: (positions [B · T], counts [B · T + 1]), both int32.

        Position b · T + t comes after `counts[b · T + t]` labelled ones, which is the index in
        `positions` of the next. Nothing here waits for the device.
        """
        mask = torch.zeros_like(self.keys)
        for sample, row in zip(mask, self.rows, strict=True):
            sample.index_fill_(0, row, True)
        size, flat = mask.numel(), mask.view(-1)
        counts = torch.zeros(size + 1, dtype=torch.int32, device=mask.device)
        torch.cumsum(flat, 0, dtype=torch.int32, out=counts[1:])
        every = torch.arange(size, dtype=torch.int32, device=mask.device)
        # The others go to a place after the end.
        place = torch.where(flat, counts[:-1], size).long()
        positions = torch.zeros_like(counts).scatter_(0, place, every % mask.shape[1])
        return positions[:-1], counts

    def __post_init__(self) -> None:
        if not self.places:
            self.places = [row.tolist() for row in self.rows]

    def blocks(self) -> list[tuple[int, Tensor, int]]:
        """Return the samples' labelled rows in blocks: (sample, rows [r], last row + 1)."""
        return [
            (sample, part, self.places[sample][number * self.block + len(part) - 1] + 1)
            for sample, index in enumerate(self.rows)
            for number, part in enumerate(index.split(self.block))
            if len(part)
        ]

    def total(self) -> Tensor:
        """Return the sum over mapped layers, averaged over heads and layers (not over positions).

        Raises:
            ModelError: a mapped layer did not pass through the hook.
        """
        missing = sorted(set(self.layers) - set(self.terms))
        if missing:
            raise ModelError(
                f"no attention was recorded for student layers {missing}",
                hint="this architecture does not use transformers' attention interface: "
                "set trainer.attention_weight: 0",
            )
        total = cast(Tensor, sum(self.terms.values()))
        return total / (self.heads * len(self.layers))


def block_scores(
    rows: Rows, sample: int, index: Tensor, end: int, keys: Tensor
) -> tuple[Tensor, Tensor]:
    """Return masked fp32 scores [H, r, S] of some rows of one sample, and the mask [r, S].

    S is `end`, the last row of the block plus one: causal attention uses no key beyond it.
    """
    q, k = rows.q[sample][:, index], rows.k[sample][:, :end]
    groups = k.shape[0]
    per_group = q.shape[0] // groups
    scores = fp32_product(q.reshape(groups, per_group * len(index), -1), k.transpose(-1, -2)).view(
        q.shape[0], len(index), end
    )
    scores *= rows.scale
    if rows.softcap:
        scores.div_(rows.softcap).tanh_().mul_(rows.softcap)
    positions = torch.arange(end, device=index.device)
    mask = (positions[None] <= index[:, None]) & keys[sample, :end][None]
    if rows.window:
        mask &= positions[None] > index[:, None] - rows.window
    return scores, mask


def log_rows(scores: Tensor, mask: Tensor) -> Tensor:
    """Return log attention rows; masked keys are −inf."""
    return torch.log_softmax(scores.masked_fill_(~mask, float("-inf")), -1)


def _kl(lt: Tensor, ls: Tensor) -> Tensor:
    """Return Σ A_t (log A_t − log A_s), with 0 · log 0 = 0.

    The published code takes log 0 there, which gives NaN.
    """
    pt = lt.exp()
    return torch.where(pt > 0, pt * (lt - ls), 0.0).sum()


class _StreamedKL(torch.autograd.Function):
    """KL of labelled attention rows, summed over heads and rows, from queries and keys."""

    @staticmethod
    def forward(
        ctx: Any, q: Tensor, k: Tensor, student: Rows, teacher: Rows, tape: AttentionTape, dry: bool
    ) -> Tensor:
        # Only saved tensors are dropped and recomputed under activation checkpointing.
        ctx.save_for_backward(q, k)
        ctx.settings = student.scale, student.window, student.softcap
        ctx.teacher, ctx.tape = teacher, tape
        total = torch.zeros((), dtype=torch.float32, device=q.device)
        if dry:
            # Activation checkpointing reruns the layer in the backward pass: the same tensors
            # must be saved, but the value is already known.
            return total
        with torch.autocast(q.device.type, enabled=False):
            for sample, index, end in tape.blocks():
                ls_scores, mask_s = block_scores(student, sample, index, end, tape.keys)
                lt_scores, mask_t = block_scores(teacher, sample, index, end, tape.keys)
                mask = mask_s & mask_t
                ls, lt = log_rows(ls_scores, mask), log_rows(lt_scores, mask)
                if ls.shape[0] == lt.shape[0]:
                    total += _kl(lt, ls)
                else:
                    total += _kl(lt.exp().mean(0).log(), ls.exp().mean(0).log())
        return total

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, grad_output: Tensor) -> tuple[Tensor | None, ...]:
        q, k = ctx.saved_tensors
        student = Rows(q, k, *ctx.settings)
        teacher, tape = ctx.teacher, ctx.tape
        # The graph may outlive its backward pass; what it refers to should not.
        del ctx.teacher, ctx.tape
        grad_q, grad_k = torch.zeros_like(q), torch.zeros_like(k)
        groups = k.shape[1]
        with torch.autocast(q.device.type, enabled=False):
            for sample, index, end in tape.blocks():
                grad = _score_grad(student, teacher, tape, sample, index, end)
                grad = (grad * (grad_output * student.scale)).to(q.dtype).view(groups, -1, end)
                rows_q = q[sample][:, index].reshape(groups, -1, q.shape[-1])
                grad_q[sample][:, index] = torch.bmm(grad, k[sample][:, :end]).view(
                    q.shape[1], len(index), -1
                )
                grad_k[sample][:, :end] += torch.bmm(grad.transpose(-1, -2), rows_q)
        return grad_q, grad_k, None, None, None, None


def _score_grad(
    student: Rows, teacher: Rows, tape: AttentionTape, sample: int, index: Tensor, end: int
) -> Tensor:
    """Return ∂KL/∂scores of the student [H, r, S], before scaling."""
    scores, mask_s = block_scores(student, sample, index, end, tape.keys)
    cap = 1.0 - (scores / student.softcap) ** 2 if student.softcap else None
    lt_scores, mask_t = block_scores(teacher, sample, index, end, tape.keys)
    mask = mask_s & mask_t
    a_s, a_t = log_rows(scores, mask).exp_(), log_rows(lt_scores, mask).exp_()
    if a_s.shape[0] == a_t.shape[0]:
        grad = a_s.sub_(a_t)
    else:
        mean_s, mean_t = a_s.mean(0), a_t.mean(0)
        slope = torch.where(mean_t > 0, -mean_t / mean_s, 0.0) / a_s.shape[0]
        grad = a_s * (slope - (a_s * slope).sum(-1, keepdim=True))
    if cap is not None:
        grad = torch.where(mask, grad * cap, 0.0)
    return grad


def attention_kl(student: Rows, teacher: Rows, tape: AttentionTape, *, dry: bool = False) -> Tensor:
    """Return the summed KL of one layer pair over heads and labelled rows, differentiable.

    Gradients flow to the student's q and k. With different head counts the head-averaged rows are
    compared (docs/method.md#attention).
    """
    result: Tensor = _StreamedKL.apply(student.q, student.k, student, teacher, tape, dry)  # type: ignore[no-untyped-call]
    return result


# ---------------------------------------------------------------- the hook
