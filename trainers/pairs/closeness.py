"""How far a teacher is from the student before the first step, on a handful of short rows."""

from __future__ import annotations

import math
from collections.abc import Sequence
from contextlib import nullcontext
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from kdharness.harness.config.models import CacheSpec
from kdharness.harness.config.precision import Precision
from kdharness.harness.errors import ModelError
from kdharness.harness.models.lm_head import Head, apply_head, head_of
from kdharness.harness.types import IGNORE_INDEX
from kdharness.trainers.data.batches import Collator
from kdharness.trainers.data.dataset import Dataset, TrainRow
from kdharness.trainers.pairs.result import PairCheck, note, ok
from kdharness.trainers.precision import autocast
from kdharness.trainers.teachers.online import Teacher, hidden_states

if TYPE_CHECKING:
    from transformers import PreTrainedModel

ROWS, LENGTH, ANSWER, CHUNK = 4, 160, 32, 64
"""Rows, their length in tokens, tokens of an answer in them, positions with logits at once."""
FAR = 4.0
"""A KL, in nats per token, of models that do not read the same rows in the same way."""
SAME = 1e-5
"""A KL below which a teacher has nothing to teach."""
WORSE = 0.5
"""How many nats per token a teacher's loss on the answers may exceed the student's."""
LOW_MASS = 0.95
"""A mean probability of a cache's tokens below which its loss says little about the rest."""


@dataclass(frozen=True)
class Closeness:
    """Means over labelled positions, in nats per token.

    Attributes:
        kl: KL(teacher || student).
        student_loss: the student's next-token loss on the answers.
        teacher_loss: the teacher's.
        top_k: how many of the teacher's likeliest tokens are counted.
        mass: their probability.
        positions: labelled positions.
        rows: rows.
    """

    kl: float
    student_loss: float
    teacher_loss: float
    top_k: int
    mass: float
    positions: int
    rows: int


def sample_rows(data: Dataset, kind: str | None) -> list[TrainRow]:
    """Return the beginnings of a few rows of a kind, each with labels in it.

    They are spread over the rows whose answer begins early; without any, they are those whose
    answer begins first.
    """
    begins = {
        index: next(place for place, label in enumerate(row.labels) if label != IGNORE_INDEX)
        for index, row in enumerate(data.rows)
        if kind is None or row.kind == kind
    }
    early = [index for index, place in begins.items() if place < LENGTH - ANSWER]
    chosen = early[:: max(1, len(early) // ROWS)] or sorted(begins, key=lambda n: begins[n])
    rows = []
    for index in chosen[:ROWS]:
        row, length = data.rows[index], max(LENGTH, begins[index] + ANSWER)
        rows.append(replace(row, input_ids=row.input_ids[:length], labels=row.labels[:length]))
    return rows


def top_tokens(cache: CacheSpec | None) -> int:
    """Return how many of the likeliest tokens a cache keeps; 64 without one."""
    kept = cache or CacheSpec()
    return kept.k - kept.sampled if cache and cache.kind == "top-k" else kept.k


@torch.no_grad()
def closeness(
    student: PreTrainedModel,
    teacher: Teacher,
    rows: Sequence[TrainRow],
    pad_id: int,
    top_k: int,
    precision: Precision | None = None,
) -> Closeness:
    """Run student and teacher on some rows, and compare them on the student's device.

    The student is in eval mode meanwhile; no random number is drawn.

    Args:
        student: the student.
        teacher: one of its teachers.
        rows: the rows.
        pad_id: fills the shorter ones.
        top_k: how many of the teacher's likeliest tokens are counted.
        precision: of the training that loaded the student; flash kernels do not accept the fp32
            weights of `mixed` without its autocast.
    """
    data = Dataset(list(rows))
    made = Collator(pad_id, sorted({row.kind for row in rows}))(
        [data[index] for index in range(len(data))]
    )
    device = next(student.parameters()).device
    batch = {name: value.to(device) for name, value in made.items()}
    part = batch["layout"].every
    training = student.training
    student.eval()
    try:
        target = teacher.targets_for(batch, part, None)
        assert isinstance(target, tuple)
        head, theirs = target
        with autocast(precision, device.type) if precision else nullcontext():
            ours = hidden_states(student, batch, part)
        own = head_of(student, head.vocab)
        sums = torch.zeros(4, dtype=torch.float64)
        for start in range(0, len(ours), CHUNK):
            chunk = slice(start, start + CHUNK)
            student_log = _log_probabilities(own, ours[chunk])
            teacher_log = _log_probabilities(own if head.weight is None else head, theirs[chunk])
            targets = batch["layout"].targets[chunk]
            sums += _sums(student_log, teacher_log, targets, top_k)
    finally:
        student.train(training)
    kl, student_loss, teacher_loss, mass = (sums / max(len(ours), 1)).tolist()
    return Closeness(kl, student_loss, teacher_loss, top_k, mass, len(ours), len(data))


def _log_probabilities(head: Head, hidden: Tensor) -> Tensor:
    logits: Tensor = apply_head(head, hidden)
    shared = logits[:, : head.vocab] if head.vocab else logits
    return shared.log_softmax(-1)


def _sums(student: Tensor, teacher: Tensor, targets: Tensor, top_k: int) -> Tensor:
    """Return the sums of KL, both losses and the mass of the teacher's likeliest tokens."""
    chances = teacher.exp()
    # A token without any probability counts nothing, whatever its logarithm is.
    kl = torch.where(chances > 0, chances * (teacher - student), 0.0).sum()
    at = targets.clamp(max=student.shape[-1] - 1)[:, None]
    losses = -student.gather(1, at).sum(), -teacher.gather(1, at).sum()
    mass = chances.topk(min(top_k, chances.shape[-1])).values.sum()
    return torch.stack([kl, *losses, mass]).double().cpu()


def judged(
    role: str, seen: Closeness, cache: CacheSpec | None, *, made: bool, start: bool
) -> list[PairCheck]:
    """Return what the numbers mean.

    Args:
        role: the teacher's.
        seen: the numbers.
        cache: the teacher's cache, if its outputs are cached.
        made: whether the student was made for this run (cut, or a mixture), and knows nothing yet.
        start: whether the teacher may be what the student starts from, as a reference is.

    Raises:
        ModelError: the numbers are not finite.
    """
    if not math.isfinite(seen.kl + seen.student_loss + seen.teacher_loss):
        raise ModelError(
            "the first loss is not a number: the weights of the student or of this teacher are "
            "damaged, or overflow in this precision",
            hint="try trainer.precision: fp32 and dtype: float32 of the teacher, or another model",
        )
    return [_distance(role, seen, made=made, start=start), _mass(role, seen, cache)]


def _distance(role: str, seen: Closeness, *, made: bool, start: bool) -> PairCheck:
    values = {
        "kl": round(seen.kl, 6),
        "student_loss": round(seen.student_loss, 4),
        "teacher_loss": round(seen.teacher_loss, 4),
        "positions": seen.positions,
        "rows": seen.rows,
    }
    detail = (
        f"KL(teacher || student) is {seen.kl:.3g} nats per token over {seen.positions} positions; "
        f"loss on the answers: student {seen.student_loss:.2f}, teacher {seen.teacher_loss:.2f}"
    )
    if seen.kl < SAME and start:
        return ok("KL at step 0", role, f"{detail}; the student starts there", **values)
    if seen.kl < SAME:
        advice = "nothing is left to distil: is the teacher the student itself?"
        return note("KL at step 0", role, detail, advice, **values)
    if seen.teacher_loss > seen.student_loss + WORSE:
        advice = (
            "the teacher predicts these answers worse than the student: check its chat template "
            "and whether it knows this domain"
        )
        return note("KL at step 0", role, detail, advice, **values)
    if not seen.kl < FAR and not made:
        advice = "check that both read the rows in the template that they were trained with"
        return note("KL at step 0", role, detail, advice, **values)
    if not seen.kl < FAR:
        detail += "; a student that was just made is far away"
    return ok("KL at step 0", role, detail, **values)


def _mass(role: str, seen: Closeness, cache: CacheSpec | None) -> PairCheck:
    values = {"k": seen.top_k, "mass": round(seen.mass, 4)}
    detail = f"the teacher's {seen.top_k} likeliest tokens have {seen.mass:.1%} of its probability"
    if cache is None or cache.kind == "hidden":
        why = "hidden states are cached" if cache else "no cache is configured"
        return ok("top-k mass", role, f"{detail}; {why}", **values)
    if seen.mass < LOW_MASS:
        advice = (
            "raise cache.k, or set cache.kind: hidden"
            if cache.tail == "bucket"
            else "the loss stays unbiased but is noisy: raise cache.k, or set cache.kind: hidden"
        )
        return note("top-k mass", role, detail, advice, **values)
    return ok("top-k mass", role, detail, **values)
