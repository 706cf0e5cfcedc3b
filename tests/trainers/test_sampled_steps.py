"""Steps with sampled answers against loops in float64: loss, gradients, scores of each answer."""

from __future__ import annotations

import copy
from typing import Any

import pytest
import torch
from torch import Tensor

from kdharness.harness.config.trainer import DistillSpec, KDSpec
from kdharness.harness.models.lm_head import Head
from kdharness.trainers.attention_hook import install_attention_hook
from kdharness.trainers.data.layout import layout_of
from kdharness.trainers.kernels import REFERENCE
from kdharness.trainers.losses.fused import Mix, Span, fused_loss
from kdharness.trainers.step import Objective, attach_loss, loss_inputs
from kdharness.trainers.teachers.build import make_mix, make_sampled_mix
from kdharness.trainers.teachers.online import AdapterTeacher, OnlineTeacher
from support.training_steps import assert_same, gradients, make_batch, make_model, with_lora

SAMPLED = (1, 2)


def row_sums(
    logits: Tensor, taught: Tensor, labels: Tensor, kind: str, beta: float, t: float
) -> tuple[Tensor, Tensor]:
    """Return (T² · divergence, cross-entropy) of a row, position by position, in float64."""
    total, hard = torch.zeros((), dtype=torch.float64), torch.zeros((), dtype=torch.float64)
    for place in range(len(labels) - 1):
        if labels[place + 1] == -100:
            continue
        p = (taught[place] / t).softmax(-1)
        q = (logits[place] / t).softmax(-1)
        m = beta * p + (1 - beta) * q
        forward = (p * (p.log() - q.log())).sum()
        reverse = (q * (q.log() - p.log())).sum()
        halves = beta * (p * (p / m).log()).sum() + (1 - beta) * (q * (q / m).log()).sum()
        value = {"forward_kl": forward, "reverse_kl": reverse, "js": halves}[kind]
        total = total + t * t * value
        hard = hard - logits[place].log_softmax(-1)[labels[place + 1]]
    return total, hard


def plain_loss(
    student: Any,
    teachers: dict[int, Any],
    batch: Any,
    spec: DistillSpec,
) -> tuple[Tensor, dict[int, float]]:
    """Return the loss of a step, and the summed divergence of each sampled answer."""
    own = spec.on_policy.settle(spec.divergence, spec.beta) if spec.on_policy else None
    assert own is not None and own.divergence is not None and own.beta is not None
    total: Any = torch.zeros((), dtype=torch.float64)
    scores, count, lam = {}, 0, spec.distill_weight
    for row, labels in enumerate(batch["labels"]):
        ids, keys = batch["input_ids"][row : row + 1], batch["attention_mask"][row : row + 1]
        teacher = teachers[int(batch["kind"][row])] if len(teachers) > 1 else teachers[0]
        logits = student(input_ids=ids, attention_mask=keys).logits[0]
        with torch.no_grad():
            taught = teacher(input_ids=ids, attention_mask=keys).logits[0]
        sampled = row in SAMPLED
        kind, beta = (own.divergence, own.beta) if sampled else (spec.divergence, spec.beta)
        kl, ce = row_sums(logits, taught, labels, kind, beta, spec.temperature)
        total = total + lam * kl + (0 if sampled else (1 - lam) * ce)
        count += int(labels[1:].ne(-100).sum())
        if sampled:
            scores[row] = float(kl.detach())
    return total / count, scores


def fused_step(student: Any, objective: Objective, batch: Any) -> tuple[Tensor, dict[int, float]]:
    attach_loss(student)
    layout = layout_of(batch, sampled=SAMPLED)
    step = loss_inputs(objective, {**batch, "layout": layout})
    loss = student(input_ids=batch["input_ids"], attention_mask=batch["attention_mask"], step=step)[
        "loss"
    ]
    return loss, {place: float(score) for place, score in step.scores}


def doubled(model: Any) -> Any:
    return copy.deepcopy(model).double()


SPECS = {
    "default": {},
    "js": {"divergence": "js", "beta": 0.3},
    "mixed losses": {"distill_weight": 0.6, "temperature": 2.0},
    "its own": {"on_policy": {"divergence": "js", "beta": 0.1}, "divergence": "reverse_kl"},
}


def spec_of(name: str, base: type[DistillSpec] = DistillSpec) -> DistillSpec:
    return base(**{"on_policy": {}, **SPECS[name]})


@pytest.mark.parametrize(
    ("name", "side"), [*((name, "right") for name in SPECS), ("default", "left")]
)
def test_kd_on_sampled_answers_matches_loops_in_float64(name: str, side: str) -> None:
    spec, batch = spec_of(name), make_batch(side=side)
    student, teacher = make_model(1), make_model(2)
    plain = doubled(student)
    want, scores = plain_loss(plain, {0: doubled(teacher)}, batch, spec)
    objective = Objective(
        make_mix(spec), {0: OnlineTeacher(teacher)}, sampled_mix=make_sampled_mix(spec)
    )
    loss, found = fused_step(student, objective, batch)
    assert float(loss) == pytest.approx(float(want), rel=1e-5)
    assert found == pytest.approx(scores, rel=1e-4)
    theirs = {n: g.float() for n, g in gradients(plain, want).items()}
    assert_same(gradients(student, loss), theirs)


@pytest.mark.parametrize(("name", "lora"), [("mixed losses", False), ("default", True)])
def test_dae_scores_sampled_answers_by_the_kind_of_their_prompt(name: str, lora: bool) -> None:
    """Row 1 is a domain row and follows the expert, row 2 a general one."""
    spec, batch = spec_of(name), make_batch()
    assert batch["kind"].tolist() == [0, 1, 0, 1]
    student, expert = make_model(1), make_model(3)
    if lora:
        student = with_lora(student, 5)
        plain = doubled(student)
        reference = doubled(student).unload()
        own: Any = AdapterTeacher(student, None)
    else:
        plain, reference = doubled(student), doubled(make_model(2))
        own = OnlineTeacher(make_model(2))
    want, scores = plain_loss(plain, {0: reference, 1: doubled(expert)}, batch, spec)
    objective = Objective(
        make_mix(spec), {0: own, 1: OnlineTeacher(expert)}, sampled_mix=make_sampled_mix(spec)
    )
    loss, found = fused_step(student, objective, batch)
    assert float(loss) == pytest.approx(float(want), rel=1e-5)
    assert found == pytest.approx(scores, rel=1e-4)
    theirs = {n: g.float() for n, g in gradients(plain, want).items()}
    assert_same(gradients(student, loss), theirs)


def test_attention_loss_is_that_of_any_answer() -> None:
    spec = spec_of("default", KDSpec)
    batch, layers = make_batch(), {0: 0, 1: 1, 2: 2}
    losses = {}
    for sampled in (SAMPLED, ()):
        student, teacher = make_model(1), make_model(2)
        for model in (student, teacher):
            install_attention_hook(model)
        attach_loss(student)
        objective = Objective(
            make_mix(spec),
            {0: OnlineTeacher(teacher)},
            layers,
            0.5,
            3,
            REFERENCE,
            make_sampled_mix(spec),
        )
        layout = layout_of(batch, sampled=sampled)
        step = loss_inputs(objective, {**batch, "layout": layout})
        student(input_ids=batch["input_ids"], attention_mask=batch["attention_mask"], step=step)
        losses[sampled] = float(step.parts["attention"])
    assert losses[SAMPLED] == pytest.approx(losses[()], rel=1e-6) and losses[()] > 0


def test_spans_share_one_gradient_of_the_head() -> None:
    """A call per answer would keep a gradient of the head's size for each until the backward."""
    torch.manual_seed(0)
    hidden, weight = torch.randn(9, 8, requires_grad=True), torch.randn(30, 8, requires_grad=True)
    teacher = Head(torch.randn(30, 8)), torch.randn(9, 8)
    mixes = [Mix(divergence=name, kl_weight=0.5, chunk=2) for name in ("forward_kl", "reverse_kl")]
    spans = [Span(4, mixes[0]), Span(0, mixes[1]), Span(3, mixes[1]), Span(2, mixes[1])]
    loss, parts = fused_loss(hidden, Head(weight), mix=spans, teacher=teacher)
    loss.backward()  # type: ignore[no-untyped-call]
    got = hidden.grad.clone(), weight.grad.clone()  # type: ignore[union-attr]
    hidden.grad = weight.grad = None
    total, sums, start = torch.zeros(()), [], 0
    for size, mix, _ in spans:
        rows = slice(start, start + size)
        part, seen = fused_loss(
            hidden[rows], Head(weight), mix=mix, teacher=(teacher[0], teacher[1][rows])
        )
        total, start = total + part, start + size
        sums.append(seen.kl)
    total.backward()  # type: ignore[no-untyped-call]
    assert torch.allclose(loss, total) and torch.allclose(got[0], hidden.grad, atol=1e-6)
    assert torch.allclose(got[1], weight.grad, atol=1e-6)
    assert torch.allclose(torch.stack(parts.spans), torch.stack(sums))  # type: ignore[arg-type]
