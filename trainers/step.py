"""One micro-batch: what a method contributes, the student's forward, and its loss.

The fused loss runs *inside* the student's forward (`attach_loss`), so that wrappers that gather
weights for a forward pass (DDP, FSDP) see one whole step. The loss is normalised over the labelled
positions of the whole optimiser step, across micro-batches and processes: how a step is split does
not change its gradient.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from types import MethodType
from typing import Any

import torch
from torch import Tensor
from transformers.utils.generic import ModelOutput

from kdharness.harness.models.lm_head import causal_model, head_of
from kdharness.trainers.attention_hook import mask_for, set_tape
from kdharness.trainers.data.layout import Batch, Layout, Packing, Part, layout_of
from kdharness.trainers.decoder import last_states, run_decoder
from kdharness.trainers.kernels import REFERENCE, Kernels
from kdharness.trainers.losses.attention import AttentionTape
from kdharness.trainers.losses.fused import Mix, Span, chunk_loss, fused_loss, token_losses
from kdharness.trainers.losses.non_target import non_target_chunk
from kdharness.trainers.losses.router import (
    RouterCounts,
    router_counts,
    router_loss,
    router_weight,
)
from kdharness.trainers.losses.token_weights import batch_temperature, row_means, talr_weights
from kdharness.trainers.teachers.online import Segment, Teacher, route, route_by_kind


@dataclass
class LossInputs:
    """Additional inputs of the student's forward, and the loss terms it reports back.

    `temperature` is the step's τ of token weights; None takes that of this micro-batch. `anchored`
    is whether the method has a loss over non-target tokens, on rows of this micro-batch or not:
    all processes log the same terms. `sampled_mix` is the loss of sampled answers, and `scores` has
    each one's place in the batch and the sum of its divergence.
    """

    layout: Layout
    segments: list[Segment]
    mix: Mix
    norm: Tensor
    attention_weight: float = 0.0
    tape: AttentionTape | None = None
    routing: RouterCounts | None = None
    temperature: Tensor | None = None
    anchored: bool = False
    kernels: Kernels = REFERENCE
    sampled_mix: Mix | None = None
    parts: dict[str, Tensor] = field(default_factory=dict)
    scores: list[tuple[int, Tensor]] = field(default_factory=list)

    def spans_of(self, part: Part) -> list[Span]:
        """Return the losses of a part's positions: the data's answers, then each sampled one."""
        mix = self.sampled_mix or self.mix
        own = [Span(count, mix, gold=False) for _, count in part.sampled]
        return [Span(part.positions.shape[0] - sum(span.size for span in own), self.mix), *own]


def attach_loss(model: Any) -> None:
    """Make a causal LM's forward compute the loss of `LossInputs`.

    It also returns the last hidden states (`states=True`), the assignments of its routers
    (`counts=True`) or the mean token loss of each row (`losses=LAYOUT`), for wrappers that gather
    weights for a forward pass alone. Other calls are unchanged.
    """
    causal = causal_model(model)
    plain = causal.forward

    def forward(
        self: Any,
        *args: Any,
        step: LossInputs | None = None,
        states: bool = False,
        counts: bool = False,
        losses: Layout | None = None,
        packing: Packing | None = None,
        **kwargs: Any,
    ) -> Any:
        if states:
            return last_states(self, kwargs["input_ids"], kwargs["attention_mask"], packing)
        if counts:
            mask = kwargs["attention_mask"]
            logits = run_decoder(
                self.base_model, kwargs["input_ids"], mask, packing, routed=True
            ).router_logits
            found = router_counts(logits, _real(mask, packing), self.config.num_experts_per_tok)
            return {"assignments": found.assignments, "rows": found.rows}
        if losses is not None:
            return {
                "means": _row_losses(self, kwargs["input_ids"], kwargs["attention_mask"], losses)
            }
        if step is None:
            return plain(*args, **kwargs)
        return step_loss(self, kwargs["input_ids"], kwargs["attention_mask"], step)

    causal.forward = MethodType(forward, causal)


def _row_losses(causal: Any, input_ids: Tensor, attention_mask: Tensor, layout: Layout) -> Tensor:
    """Return the mean token loss of each row of a micro-batch."""
    mask = mask_for(causal, attention_mask, layout.masked)
    states = last_states(causal, input_ids, mask, layout.every.packing).flatten(0, 1)
    hidden = states.index_select(0, layout.every.positions)
    return row_means(token_losses(hidden, head_of(causal), layout.targets), layout.every.sizes)


def step_loss(
    causal: Any, input_ids: Tensor, attention_mask: Tensor, step: LossInputs
) -> ModelOutput:
    """Return one micro-batch's share of the step's loss: the sum over its positions / `norm`."""
    routed = router_weight(causal) > 0
    set_tape(causal, step.tape)
    mask = mask_for(causal, attention_mask, step.layout.masked)
    packing = step.layout.every.packing
    decoded = run_decoder(causal.base_model, input_ids, mask, packing, routed=routed)
    hidden = decoded.states.flatten(0, 1)
    loss = hidden.new_zeros((), dtype=torch.float32)
    sums = {name: loss.clone() for name in ("kl", "ce", "non_target")}
    for segment in step.segments:
        part = _segment_loss(causal, hidden, segment, step, sums)
        loss = loss + part / step.norm
    wanted = {"kl": True, "ce": step.mix.ce_weight > 0, "non_target": step.anchored}
    step.parts |= {name: total / step.norm for name, total in sums.items() if wanted[name]}
    if step.tape is not None:
        attention = step.tape.total() / step.norm
        step.parts["attention"] = attention.detach()
        loss = loss + step.attention_weight * attention
    if routed:
        loss = loss + _router_loss(
            causal, decoded.router_logits, _real(attention_mask, packing), step
        )
    return ModelOutput(loss=loss)


def _segment_loss(
    causal: Any, hidden: Tensor, segment: Segment, step: LossInputs, sums: dict[str, Tensor]
) -> Tensor:
    """Return the summed loss of a segment, and add its unweighted terms to the sums."""
    vocab, teacher = 0, segment.target
    if isinstance(teacher, tuple):
        vocab = teacher[0].vocab
        if teacher[0].weight is None:
            # The student's own head, which a wrapper may have gathered for this forward only.
            teacher = head_of(causal, vocab), teacher[1]
    mix, inner, plain = segment.mix or step.mix, step.kernels.chunk_loss, None
    states, head = hidden.index_select(0, segment.part.positions), head_of(causal, vocab)
    targets = step.layout.targets[segment.part.order]
    if segment.mix is not None:
        inner = non_target_chunk
    elif mix.ce_weight > 0 and mix.token_weights is not None:
        plain = token_losses(states.detach(), head, targets, mix.chunk)
        tau = step.temperature
        if tau is None:
            tau = batch_temperature(row_means(plain, segment.part.sizes))
        inner = partial(chunk_loss, weights=talr_weights(plain, tau, mix.token_weights.floor))
    used = targets if mix.ce_weight > 0 or segment.mix is not None else None
    spans = mix if segment.mix is not None else step.spans_of(segment.part)
    part, found = fused_loss(states, head, mix=spans, teacher=teacher, targets=used, inner=inner)
    if segment.mix is None:
        places = [place for place, _ in segment.part.sampled]
        step.scores += zip(places, found.spans[1:], strict=True)
    assert found.kl is not None and found.ce is not None
    sums["kl" if segment.mix is None else "non_target"] += found.kl
    # The log has the plain cross-entropy, which other runs can be compared with.
    sums["ce"] += found.ce if plain is None else plain.sum()
    return part


def _real(attention_mask: Tensor, packing: Packing | None) -> Tensor:
    """Return which of the tokens that a model ran on are real."""
    return attention_mask if packing is None else torch.ones_like(packing.positions)


def _router_loss(causal: Any, logits: Sequence[Tensor], real: Tensor, step: LossInputs) -> Tensor:
    """Return the student's load-balancing loss: this micro-batch's share of the step's."""
    counts = step.routing or router_counts(logits, real, causal.config.num_experts_per_tok)
    balance = router_loss(logits, real, counts)
    step.parts["router"] = balance.detach()
    return router_weight(causal) * balance


@dataclass(frozen=True)
class Objective:
    """A method's part in the shared loop.

    Attributes:
        mix: weights, temperature and divergence.
        teachers: kind number -> teacher; empty for SFT.
        layers: student layer -> teacher layer for the attention loss; empty for none.
        attention_weight: λ · γ.
        attention_block: number of attention score rows in memory at once.
        kernels: what computes the losses; `train` sets it from the config.
        sampled_mix: the loss of answers that the student sampled; by default as the others'.
        anchors: kind number -> the reference of a second loss on these rows, over all tokens but
            the target.
        anchor_mix: weight, temperature and divergence of that loss.
    """

    mix: Mix
    teachers: Mapping[int, Teacher] = field(default_factory=dict)
    layers: Mapping[int, int] = field(default_factory=dict)
    attention_weight: float = 0.0
    attention_block: int = 64
    kernels: Kernels = REFERENCE
    sampled_mix: Mix | None = None
    anchors: Mapping[int, Teacher] = field(default_factory=dict)
    anchor_mix: Mix | None = None

    @property
    def frozen(self) -> list[Teacher]:
        """All models that only score, each once: a reference may be a teacher and an anchor."""
        every = [*self.teachers.values(), *self.anchors.values()]
        return list({id(teacher): teacher for teacher in every}.values())


def loss_inputs(method: Objective, batch: Batch, items: Tensor | int | None = None) -> LossInputs:
    """Run the teachers on a batch; return what the student's forward needs for its loss.

    Args:
        method: the objective.
        batch: input_ids, attention_mask and labels [B, T], kind [B], and the collator's layout;
            without it, it is worked out here, which a GPU is waited for.
        items: number of labelled positions in the whole step; by default those of the batch.
    """
    layout: Layout = batch["layout"] if "layout" in batch else layout_of(batch)
    batch = {**batch, "layout": layout}
    device = layout.targets.device
    norm = torch.as_tensor(layout.labelled if items is None else items, dtype=torch.float32)
    tape = None
    if method.layers and method.attention_weight:
        rows = layout.columns.split(list(layout.every.sizes))
        keys = batch["attention_mask"].bool()
        block, kl = method.attention_block, method.kernels.attention_kl
        tape = AttentionTape(
            method.layers, rows, keys, block, layout.places, layout.every.packing, kl=kl
        )
    segments = (
        route(batch, method.teachers, tape) if method.teachers else [Segment(layout.every, None)]
    )
    if method.anchors:
        segments += route_by_kind(batch, method.anchors, mix=method.anchor_mix)
    return LossInputs(
        layout=layout,
        segments=segments,
        mix=method.mix,
        norm=norm.to(device, non_blocking=True),
        attention_weight=method.attention_weight,
        tape=tape,
        anchored=bool(method.anchors),
        kernels=method.kernels,
        sampled_mix=method.sampled_mix,
    )
