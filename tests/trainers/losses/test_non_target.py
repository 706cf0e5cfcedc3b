"""The reference's distribution over non-target tokens: formula, routing, trainings."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from safetensors.torch import load_file
from torch import Tensor

from kdharness.harness.config.files import parse_config
from kdharness.harness.config.trainer import DAESpec, DistillSpec
from kdharness.harness.config.training import DAEConfig, config_hash
from kdharness.harness.errors import ConfigError
from kdharness.harness.models.lm_head import Head
from kdharness.harness.paths import Paths
from kdharness.harness.protocols import Job
from kdharness.harness.registry import TRAINERS, resolve
from kdharness.harness.runs.estimate import estimate
from kdharness.trainers.data.layout import layout_of
from kdharness.trainers.losses.fused import Mix, fused_loss
from kdharness.trainers.losses.non_target import non_target_chunk
from kdharness.trainers.step import Objective, attach_loss, loss_inputs
from kdharness.trainers.teachers.online import AdapterTeacher, OnlineTeacher
from support.reference_step import dae_loss, forward, shifted
from support.reporters import Listener
from support.training_runs import config_of, train
from support.training_steps import (
    assert_same,
    gradients,
    make_batch,
    make_model,
    with_lora,
)

DIVERGENCES = ("forward_kl", "reverse_kl", "js", "skew_kl", "skew_reverse_kl")


def divergence(p: Tensor, q: Tensor, kind: str, beta: float) -> Tensor:
    """Return D(p, q) by its definition."""

    def kl(a: Tensor, b: Tensor) -> Tensor:
        return (a * (a.log() - b.log())).sum(-1)

    m = beta * p + (1 - beta) * q
    return {
        "forward_kl": kl(p, q),
        "reverse_kl": kl(q, p),
        "js": beta * kl(p, m) + (1 - beta) * kl(q, m),
        "skew_kl": kl(p, m),
        "skew_reverse_kl": kl(q, m),
    }[kind]


def reference(zs: Tensor, zt: Tensor, targets: Tensor, mix: Mix) -> Tensor:
    """Drop the target's column from both, renormalise, compare: in float64."""
    total = zs.new_zeros((), dtype=torch.float64)
    for ours, theirs, target in zip(zs.double(), zt.double(), targets.tolist(), strict=True):
        kept = [token for token in range(len(theirs)) if token != target]
        q, p = (z[kept].div(mix.temperature).softmax(-1) for z in (ours, theirs))
        total = total + divergence(p, q, mix.divergence, mix.beta)
    return mix.kl_weight * mix.temperature**2 * total


@pytest.mark.parametrize("kind", DIVERGENCES)
@pytest.mark.parametrize("temperature", [0.01, 1.0, 2.5])
@pytest.mark.parametrize("vocab", [0, 9])
def test_chunks_match_the_definition(kind: str, temperature: float, vocab: int) -> None:
    torch.manual_seed(3)
    hidden = torch.randn(7, 5, requires_grad=True)
    weight, other = torch.randn(11, 5, requires_grad=True), torch.randn(vocab or 11, 4)
    states, targets = torch.randn(7, 4), torch.randint(0, 9, (7,))
    scale = min(temperature, 1.0)  # keeps p and q within float64 at a low temperature
    mix = Mix(temperature, kind, beta=0.3, kl_weight=0.7, chunk=3)
    ours, theirs = hidden * scale, states * scale
    wanted = ours @ weight.t()
    want = reference(wanted[:, : vocab or None], theirs @ other.t(), targets, mix)
    theirs_grad = torch.autograd.grad(want, [hidden, weight])
    got, parts = fused_loss(
        hidden * scale,
        Head(weight, vocab=vocab),
        mix=mix,
        teacher=(Head(other), theirs),
        targets=targets,
        inner=non_target_chunk,
    )
    assert float(got.detach()) == pytest.approx(float(want.detach()), rel=2e-5)
    assert float(parts.kl or 0) * 0.7 == pytest.approx(float(got.detach()), rel=1e-6)
    for mine, wanted in zip(torch.autograd.grad(got, [hidden, weight]), theirs_grad, strict=True):
        assert float((mine - wanted).norm()) <= 2e-5 * float(wanted.norm())


def test_targets_that_only_the_student_knows_remove_nothing() -> None:
    """A tokenizer may have tokens of its own after those that both models share."""
    torch.manual_seed(0)
    weight, other = torch.randn(11, 5), torch.randn(11, 4)
    hidden, states = torch.randn(3, 5, requires_grad=True), torch.randn(3, 4)

    def loss(targets: list[int]) -> torch.Tensor:
        return fused_loss(
            hidden,
            Head(weight, vocab=9),
            mix=Mix(kl_weight=1.0),
            teacher=(Head(other), states),
            targets=torch.tensor(targets),
            inner=non_target_chunk,
        )[0]

    ours, theirs = (
        torch.log_softmax(part[:, :9], -1) for part in (hidden @ weight.t(), states @ other.t())
    )
    whole = (theirs.exp() * (theirs - ours)).sum(-1)
    got, want = loss([9, 10, 9]), whole.sum()
    assert float(got.detach()) == pytest.approx(float(want.detach()), rel=1e-5)
    for mine, wanted in zip(*(torch.autograd.grad(v, [hidden]) for v in (got, want)), strict=True):
        assert torch.allclose(mine, wanted, atol=1e-5)


@given(shift=st.floats(-200, 200), target=st.integers(0, 10))
def test_the_targets_own_logit_does_not_count(shift: float, target: int) -> None:
    """However likely one of them finds the target, or impossible: neither loss nor gradient."""
    torch.manual_seed(0)
    zs, zt = torch.randn(1, 11), torch.randn(1, 11)
    moved = zs.clone()
    moved[0, target] += shift
    targets, mix = torch.tensor([target]), Mix()
    eye = Head(torch.eye(11))

    def loss(z: Tensor) -> tuple[Tensor, Tensor]:
        total, _, grad = non_target_chunk(
            z.clone(), eye, (eye, zt.clone()), targets, slice(0, 1), mix
        )
        return total, grad

    (a, grad), (b, other) = loss(zs), loss(moved)
    assert float(a) == pytest.approx(float(b), rel=1e-5, abs=1e-6)
    assert torch.allclose(grad, other, atol=1e-6)
    assert float(grad[0, target]) == 0


@pytest.mark.parametrize("case", ["plain", "packed", "lora"])
def test_dae_step_adds_the_reference_on_domain_rows_alone(case: str) -> None:
    student, refer, expert = make_model(1), make_model(2), make_model(3)
    anchor: Any = OnlineTeacher(refer)
    if case == "lora":
        student = with_lora(student, 5)
        refer = make_model(1)  # the base of that adapter
        anchor = AdapterTeacher(student, None)
    batch = make_batch()
    mask = shifted(batch["labels"])
    domain = mask & batch["kind"].bool()[:, None]
    with torch.no_grad():
        zt, _ = forward(refer, batch, attention=False)
    zs, _ = forward(student, batch, attention=False)
    mix = Mix(2.0, chunk=5)
    anchor_mix = Mix(2.0, kl_weight=0.3, chunk=5)
    targets = batch["input_ids"].roll(-1, 1)[domain]
    want = dae_loss(student, refer, expert, batch, temperature=2.0)
    want = want + reference(zs[domain], zt[domain], targets, anchor_mix) / mask.sum()
    theirs = gradients(student, want)
    attach_loss(student)
    if case == "packed":
        batch["layout"] = layout_of(batch, packing=True)
    objective = Objective(
        mix,
        {0: anchor, 1: OnlineTeacher(expert)},
        anchors={1: anchor},
        anchor_mix=anchor_mix,
    )
    step = loss_inputs(objective, batch)
    got = student(input_ids=batch["input_ids"], attention_mask=batch["attention_mask"], step=step)[
        "loss"
    ]
    assert float(got) == pytest.approx(float(want), rel=5e-6)
    assert float(step.parts["non_target"]) > 0
    assert_same(gradients(student, got), theirs)


# ---------------------------------------------------------------- trainings


def dae(teacher: Path, lora: bool = False, **trainer: Any) -> DAEConfig:
    """Return a DAE config with domain rows alone."""
    config = config_of(teacher, "dae", lora, max_steps=2, optimizer="sgd", **trainer)
    data = config.data.model_copy(update={"train": config.data.train[1:]})
    made: DAEConfig = config.model_copy(update={"data": data})
    return made


@pytest.mark.slow
@pytest.mark.parametrize("lora", [False, True])
def test_how_a_step_is_split_does_not_matter(lora: bool, tiny_teacher: Path, paths: Paths) -> None:
    """Without general rows; the reference is the student before training."""
    got: dict[int, tuple[list[float], dict[str, Tensor]]] = {}
    for rows, parts in ((4, 1), (2, 2)):
        config = dae(
            tiny_teacher,
            lora,
            batch_size=rows,
            accumulation=parts,
            learning_rate=0.5,
            length_groups="none",
            non_target_weight=0.8,
            distill_weight=0.0,
            packing=parts == 2,
        )
        folder, reporter = train(config, paths, f"nt-{parts}")
        curve = [point["non_target"] for _, point in reporter.points if "non_target" in point]
        (file,) = folder.glob("*.safetensors")
        got[parts] = curve, load_file(file)
    (one, weights), (two, others) = got[1], got[2]
    # At the first step the student is its reference.
    assert abs(one[0]) < 1e-5 < one[1]
    assert two == pytest.approx(one, rel=1e-4, abs=1e-6)
    assert all(torch.allclose(weights[name], others[name], atol=2e-6) for name in weights)


@pytest.mark.slow
def test_the_reference_holds_the_student_near(tiny_teacher: Path, paths: Paths) -> None:
    """Next-token loss with the anchor moves the other tokens less than without it."""
    curves = {}
    for weight in (1e-9, 4.0):
        config = dae(tiny_teacher, learning_rate=0.3, distill_weight=0.0, non_target_weight=weight)
        config = config.model_copy(
            update={"trainer": config.trainer.model_copy(update={"max_steps": 6})}
        )
        _, reporter = train(config, paths, f"near-{weight}")
        curves[weight] = [p["non_target"] for _, p in reporter.points if "non_target" in p]
    assert curves[4.0][-1] < 0.7 * curves[1e-9][-1]


@pytest.mark.slow
def test_parents_and_plan_know_the_reference(tiny_teacher: Path, paths: Paths) -> None:
    config = dae(tiny_teacher, non_target_weight=0.5)
    rows = {"steps": 2, "tokens": 100, "labelled": 50, "padding_share": 0.0, "width": 16}
    plain = estimate(dae(tiny_teacher), paths, rows)
    more = estimate(config, paths, rows)
    assert more.flops > 1.2 * plain.flops
    assert more.memory == plain.memory  # the reference was counted before
    folder = paths.run("parents")
    folder.mkdir(parents=True)
    outcome = resolve(TRAINERS, "dae", "method")(config, Job(paths, "parents", folder, Listener()))
    assert set(outcome.parents) == {"student", "expert", "reference"}
    assert outcome.parents["reference"] == outcome.parents["student"]


def test_settings(tiny_teacher: Path) -> None:
    values: dict[str, Any] = {
        "method": "dae",
        "student": "m",
        "expert": "e",
        "data": {"train": {"path": "shop:train", "kind": "domain"}},
    }
    plain, none, some = (
        parse_config({**values, "trainer": {"epochs": 1, **more}})
        for more in ({}, {"non_target_weight": 0}, {"non_target_weight": 0.5})
    )
    assert config_hash(plain) == config_hash(none) != config_hash(some)
    assert isinstance(plain, DAEConfig)
    made = DAEConfig(
        student=plain.student,
        expert=plain.expert,
        data=plain.data,
        trainer=DistillSpec(epochs=1),  # type: ignore[arg-type]
    )
    assert made.trainer == DAESpec(epochs=1)
    with pytest.raises(ConfigError, match=r"non_target_weight needs the reference on domain rows"):
        parse_config(
            {
                **values,
                "reference": {"model": "r", "cache": {"kind": "hidden"}},
                "trainer": {"non_target_weight": 0.5},
            }
        )
    with pytest.raises(ConfigError, match="non_target_weight"):
        config_of(tiny_teacher, "kd", non_target_weight=0.5)
