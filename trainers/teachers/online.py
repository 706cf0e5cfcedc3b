"""Frozen models that are followed: where they come from, and what they say about a batch.

A teacher gives its last hidden states at labelled positions (its head is applied chunk by chunk
in the loss), or a cached distribution. A row has one teacher and costs one teacher forward.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from types import MethodType
from typing import Any, Protocol

import torch
from torch import Tensor
from torch.distributed.fsdp import fully_shard

from kdharness.harness.errors import ModelError
from kdharness.harness.models.lm_head import Head, backbone, head_of
from kdharness.trainers.attention_hook import set_keep
from kdharness.trainers.losses.attention import AttentionTape
from kdharness.trainers.losses.fused import TopK


@dataclass(frozen=True)
class Segment:
    """The rows of a batch that follow one teacher.

    Attributes:
        rows: [B] which samples.
        target: the teacher's head with hidden states [n, h] at their labelled positions in
            row-major order, or a cached distribution; None for next-token loss alone.
    """

    rows: Tensor
    target: tuple[Head, Tensor] | TopK | None


class Teacher(Protocol):
    """Something that tells what a frozen model thinks of labelled positions."""

    def targets_for(
        self, batch: Mapping[str, Tensor], rows: Tensor, mask: Tensor, tape: AttentionTape | None
    ) -> tuple[Head, Tensor] | TopK:
        """Targets for the samples `rows` [B] at labelled positions `mask` [B, T]."""
        ...


class OnlineTeacher:
    """A model of its own, run on the rows that follow it."""

    def __init__(self, model: Any, vocab: int = 0) -> None:
        self.model = model.requires_grad_(False)
        self.model.eval()
        self.vocab = vocab
        self.sharded = False

    def shard(self, mesh: Any = None) -> None:
        """Spread the weights over the processes with FSDP2, layer by layer.

        From then on every process must run the teacher on every micro-batch: gathering weights
        is a joint act (see `route`).
        """
        options = {} if mesh is None else {"mesh": mesh}
        attach_states(self.model)
        layers = getattr(backbone(self.model), "layers", None)
        for layer in layers if layers is not None else ():
            fully_shard(layer, **options)
        # The root keeps embeddings and head gathered after its forward: the loss needs the head.
        fully_shard(self.model, reshard_after_forward=False, **options)
        self.sharded = True

    def targets_for(
        self, batch: Mapping[str, Tensor], rows: Tensor, mask: Tensor, tape: AttentionTape | None
    ) -> tuple[Head, Tensor]:
        """Hidden states at labelled positions; fills the tape's queries and keys when given."""
        if tape is not None:
            set_keep(self.model, tape)
        hidden = hidden_states(self.model, batch, rows, mask)
        if tape is not None:
            set_keep(self.model, None)
        return head_of(self.model, self.vocab), hidden


class AdapterTeacher:
    """The student's own base weights with another adapter, or with none: one copy, many models."""

    def __init__(self, model: Any, adapter: str | None, vocab: int = 0) -> None:
        """`model` is the student's PEFT model; `adapter` a loaded adapter's name, None for off."""
        self.model = model
        self.adapter = adapter
        self.vocab = vocab

    def targets_for(
        self, batch: Mapping[str, Tensor], rows: Tensor, mask: Tensor, tape: AttentionTape | None
    ) -> tuple[Head, Tensor]:
        """As `OnlineTeacher.look`; the student's adapter and mode are put back."""
        peft = getattr(self.model, "module", self.model)
        with _switched(peft, self.adapter):
            if tape is not None:
                set_keep(peft, tape)
            hidden = hidden_states(peft, batch, rows, mask)
            if tape is not None:
                set_keep(peft, None)
        return head_of(peft, self.vocab), hidden


@contextmanager
def _switched(peft: Any, adapter: str | None) -> Iterator[None]:
    """The model in eval mode with another adapter, then as it was."""
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
        # set_adapter also switches which adapters train; the student's alone does.
        for name, value in peft.named_parameters():
            value.requires_grad_(name in trainable)
        peft.train(training)


@torch.no_grad()
def hidden_states(model: Any, batch: Mapping[str, Tensor], rows: Tensor, mask: Tensor) -> Tensor:
    """Last hidden states [n, h] of some samples at their labelled positions.

    Padding that only the left-out samples needed is cut away first.
    """
    everything = bool(rows.all())
    ids, keys = batch["input_ids"], batch["attention_mask"]
    if not everything:
        ids, keys, mask = ids[rows], keys[rows], mask[rows]
        used = keys.any(0).nonzero()
        first, last = int(used[0]), int(used[-1]) + 1
        ids, keys, mask = ids[:, first:last], keys[:, first:last], mask[:, first:last]
    device = next(model.parameters()).device
    inputs = {"input_ids": ids.to(device), "attention_mask": keys.to(device)}
    if getattr(model, "kd_gives_states", False):
        hidden: Tensor = model(**inputs, states=True)
    else:
        hidden = backbone(model)(**inputs, use_cache=False).last_hidden_state
    return hidden[mask.to(hidden.device)].to(mask.device)


def attach_states(model: Any) -> None:
    """Let a causal LM's own forward give last hidden states.

    A sharded model gathers its embeddings and head when *it* is called, not its backbone.
    """
    plain = model.forward

    def forward(self: Any, *args: Any, states: bool = False, **kwargs: Any) -> Any:
        if not states:
            return plain(*args, **kwargs)
        return self.base_model(**kwargs, use_cache=False).last_hidden_state

    model.forward = MethodType(forward, model)
    model.kd_gives_states = True


def route(
    batch: Mapping[str, Tensor],
    mask: Tensor,
    teachers: Mapping[int, Teacher],
    tape: AttentionTape | None = None,
) -> list[Segment]:
    """Ask each row's own teacher, once.

    Args:
        batch: input_ids, attention_mask [B, T] and kind [B].
        mask: labelled positions [B, T].
        teachers: kind number -> teacher.
        tape: for the attention loss, which has one teacher for all rows.
    """
    segments = []
    for kind, teacher in teachers.items():
        rows = (
            batch["kind"].eq(kind)
            if len(teachers) > 1
            else torch.ones_like(batch["kind"], dtype=torch.bool)
        )
        if not bool(rows.any()):
            if getattr(teacher, "sharded", False):
                # Another process may need this teacher now: gather along, keep nothing.
                first = torch.zeros_like(rows)
                first[0] = True
                teacher.targets_for(batch, first, mask, None)
            continue
        segments.append(Segment(rows, teacher.targets_for(batch, rows, mask, tape)))
    return segments


# ---------------------------------------------------------------- do they go together?


def check_tokenizers(student: Any, teacher: Any, student_name: str, teacher_name: str) -> int:
    """Compare tokenizers by content; returns how many ids both models share.

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
                f"{by_id.get(index)!r} in one and {other.get(index)!r} in the other",
                hint="distillation compares distributions over the same tokens: choose a student "
                "and a teacher of one family, or cut the student from its teacher",
            )
    probe = "Ünïcode, numbers 12,345.6\n\ttabs and CODE: x_1 += f(y)  # ok"
    if student(probe)["input_ids"] != teacher(probe)["input_ids"]:
        raise ModelError(
            f"the tokenizers of {student_name} and {teacher_name} split text differently",
            hint="use one tokenizer for both models",
        )
    return shared
