"""Frozen teacher models and their targets for a batch.

A teacher returns its last hidden states at labelled positions (its head is applied chunk by chunk
in the loss), or a cached distribution. A row has one teacher and costs one teacher forward pass.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass, replace
from functools import partial
from types import MethodType
from typing import TYPE_CHECKING, Any, Protocol

import torch
from torch import Tensor
from torch.distributed.fsdp import FSDPModule, fully_shard
from torch.distributed.tensor import DTensor

from kdharness.harness.config.precision import Precision
from kdharness.harness.errors import ModelError
from kdharness.harness.models.lm_head import Head, apply_head, backbone, causal_model, head_of
from kdharness.trainers.attention_hook import mask_for, set_keep
from kdharness.trainers.data.layout import Batch, Layout, Part
from kdharness.trainers.decoder import last_states
from kdharness.trainers.losses.attention import AttentionTape
from kdharness.trainers.losses.fused import Mix
from kdharness.trainers.losses.top_k import TopK
from kdharness.trainers.precision import autocast
from kdharness.trainers.teachers.placement import Offloaded, head_on, moved

if TYPE_CHECKING:
    from transformers import PreTrainedModel


@dataclass(frozen=True)
class Segment:
    """The rows of a batch that share one teacher.

    Attributes:
        part: the rows.
        target: the teacher's head with hidden states [n, h] at their labelled positions in
            row-major order, or a cached distribution; None for next-token loss alone.
        mix: of a second loss on these rows, over all tokens but the target; None for the first.
    """

    part: Part
    target: tuple[Head, Tensor] | TopK | None
    mix: Mix | None = None


class Teacher(Protocol):
    """A source of targets at labelled positions."""

    def targets_for(
        self, batch: Batch, part: Part, tape: AttentionTape | None
    ) -> tuple[Head, Tensor] | TopK:
        """Return targets for some rows of a batch, at their labelled positions."""
        ...


class OnlineTeacher:
    """A separate model, run on the rows that follow it."""

    def __init__(
        self, model: PreTrainedModel, vocab: int = 0, *, runs_on: str | None = None
    ) -> None:
        """Freeze a model.

        Args:
            model: a causal LM.
            vocab: `Head.vocab`.
            runs_on: the device that its weights are copied to for each forward pass; by default
                they stay where they are.
        """
        self.model = model.requires_grad_(False)
        self.model.eval()
        self.vocab = vocab
        self.sharded = False
        self.offloaded = Offloaded(model, runs_on) if runs_on is not None else None
        self._head: Head | None = None

    def shard(self, mesh: Any = None) -> None:
        """Shard the weights over the processes with FSDP2, layer by layer.

        From then on every process must run the teacher on every micro-batch: gathering weights is
        a collective operation (see `route`).
        """
        if getattr(self.model, "is_quantized", False):
            return  # FSDP2 cannot shard packed weights: every process keeps the whole model
        options = {} if mesh is None else {"mesh": mesh}
        attach_states(self.model)
        self.sharded = True
        if isinstance(self.model, FSDPModule):
            return  # it was loaded sharded
        layers = getattr(backbone(self.model), "layers", None)
        for layer in layers if layers is not None else ():
            fully_shard(layer, **options)
        # The root keeps embeddings and head gathered after forward: the loss needs the head.
        fully_shard(self.model, reshard_after_forward=False, **options)

    def targets_for(
        self, batch: Batch, part: Part, tape: AttentionTape | None
    ) -> tuple[Head, Tensor]:
        """Return hidden states at labelled positions; record queries and keys on the tape."""
        if tape is not None:
            set_keep(self.model, tape)
        hidden = hidden_states(self.model, batch, part, own=self.sharded, offloaded=self.offloaded)
        if tape is not None:
            set_keep(self.model, None)
        return self.head_for(hidden.device), hidden

    def head_for(self, device: torch.device) -> Head:
        """Return the output head on the device of the loss; a copy is made once."""
        if self._head is not None and self._head.weight.device == device:
            return self._head
        head = head_of(self.model, self.vocab)
        if isinstance(head.weight, DTensor):
            # Tied to embeddings that are sharded again by now.
            return replace(head, weight=head.weight.full_tensor())
        if head.weight.device == device and self.offloaded is None:
            return head
        self._head = head_on(head, device)
        return self._head


class AdapterTeacher:
    """The student's base weights with another adapter or none: several models in one copy."""

    def __init__(
        self,
        model: PreTrainedModel,
        adapter: str | None,
        vocab: int = 0,
        precision: Precision | None = None,
    ) -> None:
        """Wrap the student's PEFT model.

        Args:
            model: the student.
            adapter: a loaded adapter's name, or None to disable the student's.
            vocab: `Head.vocab`.
            precision: the training's, for the same products as in the student's forward.
        """
        self.model = model
        self.adapter = adapter
        self.vocab = vocab
        self.precision = precision
        self.sharded = False

    def targets_for(
        self, batch: Batch, part: Part, tape: AttentionTape | None
    ) -> tuple[Head, Tensor]:
        """Do the same as `OnlineTeacher`, then restore the student's adapter and mode.

        The head has no weight: it is the student's own.
        """
        peft = getattr(self.model, "module", self.model)
        products = (
            autocast(self.precision, part.at.device.type) if self.precision else nullcontext()
        )
        with products, _switched(peft, self.adapter):
            if tape is not None:
                set_keep(peft, tape)
            # Through the student's own forward, which gathers its weights where it is sharded.
            hidden = hidden_states(self.model, batch, part, own=self.sharded)
            if tape is not None:
                set_keep(peft, None)
        return Head(None, vocab=self.vocab), hidden


@contextmanager
def _switched(peft: Any, adapter: str | None) -> Iterator[None]:
    """Switch the model to eval mode and another adapter, then restore it."""
    training, active = peft.training, peft.active_adapter
    trainable = {name for name, value in peft.named_parameters() if value.requires_grad}
    peft.eval()
    try:
        if adapter is None:
            with peft.disable_adapter():
                yield
        else:
            peft.set_adapter(adapter)
            yield
    finally:
        peft.set_adapter(active)
        # set_adapter also changes which adapters are trainable; only the student's should be.
        for name, value in peft.named_parameters():
            value.requires_grad_(name in trainable)
        peft.train(training)


@torch.no_grad()
def hidden_states(
    model: PreTrainedModel,
    batch: Batch,
    part: Part,
    *,
    own: bool = False,
    offloaded: Offloaded | None = None,
) -> Tensor:
    """Return the last hidden states [n, h] of some rows at their labelled positions.

    Padding gets id 0, which every model embeds: the student's own may be beyond a teacher's
    vocabulary.

    Args:
        model: a causal LM.
        batch: input_ids and attention_mask [B, T], and the layout.
        part: the rows.
        own: whether to call the model's own forward, which then takes `states=True`.
        offloaded: the model's weights, if they have to be copied to a device first.
    """
    keys = part.cut(batch["attention_mask"])
    ids = part.cut(batch["input_ids"]).masked_fill(keys == 0, 0)
    device = next(model.parameters()).device if offloaded is None else offloaded.device
    mask = mask_for(causal_model(model), keys, batch["layout"].masked)
    if mask is not None:
        mask = moved(mask, device)
    # A sharded model gathers its embeddings and head when *it* is called, not its backbone.
    call = None if offloaded is None else offloaded.call
    run = partial(model, states=True) if own else partial(last_states, model, call=call)
    packing = part.packing
    if packing is not None:
        packing = packing.to(device, non_blocking=device.type != "cpu")
    hidden: Tensor = run(input_ids=moved(ids, device), attention_mask=mask, packing=packing)
    chosen = hidden.flatten(0, 1).index_select(0, moved(part.inside, device))
    return moved(chosen, part.inside.device)


@torch.no_grad()
def refuse_other_heads(model: PreTrainedModel, name: str) -> None:
    """Check on a few tokens that a model's logits are those of its head (`head_of`).

    Raises:
        ModelError: they are not: the architecture does something else with them.
    """
    device = next(model.parameters()).device
    ids = torch.arange(8, device=device)[None] % model.config.get_text_config().vocab_size
    mask = torch.ones_like(ids)
    # Flash kernels take neither fp32 nor the CPU, where a model may still be.
    used = str(model.config._attn_implementation)
    flash = used.startswith("flash")
    if flash:
        model.set_attn_implementation("sdpa")
    try:
        own = model(input_ids=ids, attention_mask=mask, use_cache=False).logits[0].float()
        made = apply_head(head_of(model), last_states(model, ids, mask)[0])[:, : own.shape[-1]]
    finally:
        if flash:
            model.set_attn_implementation(used)
    if float((made - own).norm() / own.norm()) > 0.05:
        raise ModelError(
            f"{name} ({type(model).__name__}) computes its logits by more than its output head, "
            "which the losses do not know",
            hint="use another model",
        )


def attach_states(model: Any) -> None:
    """Let a causal LM's own forward return last hidden states, with `states=True`."""
    plain = model.forward

    def forward(self: Any, *args: Any, states: bool = False, **kwargs: Any) -> Any:
        return last_states(self, **kwargs) if states else plain(*args, **kwargs)

    model.forward = MethodType(forward, model)


def route(
    batch: Batch,
    teachers: Mapping[int, Teacher],
    tape: AttentionTape | None = None,
) -> list[Segment]:
    """Run each row's own teacher once.

    Args:
        batch: input_ids and attention_mask [B, T], and the layout.
        teachers: kind number -> teacher; a single one teaches every row.
        tape: for the attention loss, which has one teacher for all rows.
    """
    layout: Layout = batch["layout"]
    if len(teachers) == 1:
        (teacher,) = teachers.values()
        return [Segment(layout.every, teacher.targets_for(batch, layout.every, tape))]
    return route_by_kind(batch, teachers, tape)


def route_by_kind(
    batch: Batch,
    teachers: Mapping[int, Teacher],
    tape: AttentionTape | None = None,
    mix: Mix | None = None,
) -> list[Segment]:
    """Run each teacher on the rows of its kind alone; rows of other kinds are left out.

    Args:
        batch, teachers, tape: as in `route`.
        mix: `Segment.mix`.
    """
    layout: Layout = batch["layout"]
    segments = []
    for kind, teacher in teachers.items():
        part = layout.kinds.get(kind)
        if part is not None:
            segments.append(Segment(part, teacher.targets_for(batch, part, tape), mix))
        elif getattr(teacher, "sharded", False):
            # Another process may need this teacher now: take part in the gather, keep nothing.
            teacher.targets_for(batch, layout.part([0]), None)
    return segments


# ---------------------------------------------------------------- compatibility


def check_tokenizers(student: Any, teacher: Any, student_name: str, teacher_name: str) -> int:
    """Compare tokenizers by content; return how many ids both models share.

    Raises:
        ModelError: they differ; both are named, with the first difference.
    """
    ours, theirs = student.get_vocab(), teacher.get_vocab()
    by_id, other = {i: t for t, i in ours.items()}, {i: t for t, i in theirs.items()}
    shared = min(max(by_id, default=-1), max(other, default=-1)) + 1
    for index in range(shared):
        if by_id.get(index) != other.get(index):
            raise ModelError(
                f"the tokenizers of {student_name} and {teacher_name} differ: id {index} is "
                f"{by_id.get(index)!r} in the first and {other.get(index)!r} in the second",
                hint="distillation compares distributions over the same tokens: choose a student "
                "and a teacher of the same family, or cut the student from its teacher",
            )
    probe = "Ünïcode, numbers 12,345.6\n\ttabs and CODE: x_1 += f(y)  # ok"
    if student(probe)["input_ids"] != teacher(probe)["input_ids"]:
        raise ModelError(
            f"the tokenizers of {student_name} and {teacher_name} tokenize text differently",
            hint="use the same tokenizer for both models",
        )
    return shared
