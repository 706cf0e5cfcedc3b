"""Whole steps of SFT, KD and DAE through real models, against the reference step."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from kdharness.harness.errors import ModelError
from kdharness.trainers.attention_hook import install_attention_hook
from kdharness.trainers.losses.attention import AttentionTape
from kdharness.trainers.losses.fused import Mix, labelled_positions
from kdharness.trainers.step import Objective, attach_loss, loss_inputs
from kdharness.trainers.teachers.online import AdapterTeacher, OnlineTeacher
from support import reference_step
from support.training_steps import (
    assert_same,
    fused,
    gradients,
    make_batch,
    make_model,
    with_lora,
)

FAMILIES = [
    "mistral",
    "gemma2",
    "cohere",
    "granite",
    "qwen3",
    "phi3",
    "gpt_neox",
    "deepseek_v3",
    "gemma3",
    "starcoder2",
]
CASES = {
    "plain": {},
    "tied": {"tie_word_embeddings": True},
    "many key heads": {"num_key_value_heads": 4},
    "one key head": {"num_key_value_heads": 1},
}


def slow(value: Any) -> Any:
    """Leave the combinations with this value to the slow tests."""
    return pytest.param(value, marks=pytest.mark.slow)


@pytest.mark.parametrize("side", ["right", slow("left")])
@pytest.mark.parametrize("temperature", [2.0, slow(1.0)])
@pytest.mark.parametrize("checkpointing", [False, slow(True)])
@pytest.mark.parametrize("case", list(CASES))
def test_kd_step_matches_the_reference(
    case: str, checkpointing: bool, temperature: float, side: str
) -> None:
    student, teacher = make_model(1, **CASES[case]), make_model(2)
    batch, layers = make_batch(side=side), {0: 0, 1: 1, 2: 2}
    want = reference_step.kd_loss(
        student, teacher, batch, temperature=temperature, lam=0.8, gamma=0.5, layers=layers
    )
    theirs = gradients(student, want)
    if checkpointing:
        student.gradient_checkpointing_enable({"use_reentrant": False})
        student.train()
    install_attention_hook(student)
    install_attention_hook(teacher)
    attach_loss(student)
    mix = Mix(temperature, kl_weight=0.8, ce_weight=0.2, chunk=5)
    got = fused(student, batch, {0: OnlineTeacher(teacher)}, mix=mix, layers=layers, gamma=0.4)
    assert float(got) == pytest.approx(float(want), rel=2e-6)
    assert_same(gradients(student, got), theirs)


@pytest.mark.slow
@pytest.mark.parametrize("family", FAMILIES)
def test_kd_step_matches_the_reference_for_other_model_families(family: str) -> None:
    """Sliding windows, soft-caps on logits and scores, logit scales, q and k norms."""
    student, teacher = make_model(1, family), make_model(2, family)
    batch, layers = make_batch(), {0: 0, 2: 2}
    want = reference_step.kd_loss(student, teacher, batch, gamma=2.0, layers=layers)
    theirs = gradients(student, want)
    install_attention_hook(student)
    install_attention_hook(teacher)
    attach_loss(student)
    got = fused(
        student, batch, {0: OnlineTeacher(teacher)}, mix=Mix(chunk=4), layers=layers, gamma=2.0
    )
    assert float(got) == pytest.approx(float(want), rel=5e-6)
    assert_same(gradients(student, got), theirs)


def test_sliding_window_and_full_layers_are_compared_on_shared_keys() -> None:
    """Compare with the reference formula on the same weights with the window on both sides."""
    student, teacher = make_model(1, "mistral"), make_model(2, "mistral", sliding_window=None)
    narrow = make_model(2, "mistral")
    batch, layers = make_batch(), {0: 0}
    want = reference_step.kd_loss(student, narrow, batch, gamma=1.0, layers=layers)
    want = want - reference_step.kd_loss(student, narrow, batch)
    install_attention_hook(student)
    install_attention_hook(teacher)
    attach_loss(student)
    both = fused(student, batch, {0: OnlineTeacher(teacher)}, mix=Mix(), layers=layers, gamma=1.0)
    alone = fused(student, batch, {0: OnlineTeacher(teacher)}, mix=Mix())
    # Layer 0 reads only embeddings, so the window changes nothing before its attention rows.
    assert float(both - alone) == pytest.approx(float(want), rel=1e-4)


def test_different_head_counts_compare_mean_attention() -> None:
    student = make_model(1, num_attention_heads=2, num_key_value_heads=1)
    teacher, batch, layers = make_model(2), make_batch(), {0: 0, 1: 2}
    want = reference_step.kd_loss(student, teacher, batch, gamma=1.0, layers=layers)
    theirs = gradients(student, want)
    install_attention_hook(student)
    install_attention_hook(teacher)
    attach_loss(student)
    got = fused(student, batch, {0: OnlineTeacher(teacher)}, mix=Mix(), layers=layers, gamma=1.0)
    assert float(got) == pytest.approx(float(want), rel=5e-6)
    assert_same(gradients(student, got), theirs)


@pytest.mark.parametrize("side", ["right", "left"])
def test_dae_step_routes_each_row_to_its_teacher(side: str) -> None:
    student, reference, expert = make_model(1), make_model(2), make_model(3)
    batch = make_batch(side=side)
    want = reference_step.dae_loss(student, reference, expert, batch, temperature=1.5)
    theirs = gradients(student, want)
    attach_loss(student)
    teachers = {0: OnlineTeacher(reference), 1: OnlineTeacher(expert)}
    got = fused(student, batch, teachers, mix=Mix(1.5, chunk=6))
    assert float(got) == pytest.approx(float(want), rel=2e-6)
    assert_same(gradients(student, got), theirs)


def test_each_row_costs_one_teacher_forward() -> None:
    student, seen = make_model(1), []
    attach_loss(student)
    teachers: dict[int, Any] = {}
    for kind in (0, 1):
        model = make_model(2 + kind)
        model.model.register_forward_pre_hook(
            lambda _m, _a, kw: seen.append(len(kw["input_ids"])), with_kwargs=True
        )
        teachers[kind] = OnlineTeacher(model)
    fused(student, make_batch(rows=5), teachers, mix=Mix())
    assert seen == [3, 2]


def test_sft_step_matches_next_token_loss() -> None:
    student, batch = make_model(1), make_batch()
    want = reference_step.ntp_loss(
        reference_step.forward(student, batch, attention=False)[0], batch["labels"]
    )
    theirs = gradients(student, want)
    attach_loss(student)
    got = fused(student, batch, {}, mix=Mix(kl_weight=0, ce_weight=1, chunk=4))
    assert float(got) == pytest.approx(float(want), rel=2e-6)
    assert_same(gradients(student, got), theirs)


@pytest.mark.parametrize("checkpointing", [False, True])
def test_kd_step_with_lora_matches_the_reference(checkpointing: bool) -> None:
    teacher, batch, layers = make_model(2), make_batch(), {0: 0, 1: 1}
    student = with_lora(make_model(1), 5)
    want = reference_step.kd_loss(
        student.get_base_model(), teacher, batch, gamma=1.0, layers=layers
    )
    theirs = gradients(student, want)
    if checkpointing:
        student.enable_input_require_grads()
        student.get_base_model().gradient_checkpointing_enable({"use_reentrant": False})
        student.train()
    install_attention_hook(student.get_base_model())
    install_attention_hook(teacher)
    attach_loss(student)
    got = fused(student, batch, {0: OnlineTeacher(teacher)}, mix=Mix(), layers=layers, gamma=1.0)
    assert float(got) == pytest.approx(float(want), rel=5e-6)
    ours = gradients(student, got)
    assert all("lora_" in name for name in ours)
    assert_same(ours, theirs)


def test_dae_adapters_on_a_shared_base_match_separate_models(tmp_path: Path) -> None:
    """DAE with adapters: the same gradient as with three separate models."""
    expert = with_lora(make_model(1), 6)
    expert.save_pretrained(tmp_path / "expert")
    merged, reference, batch = expert.merge_and_unload().eval(), make_model(1), make_batch()
    student = with_lora(make_model(1), 7)
    want = reference_step.dae_loss(student.get_base_model(), reference, merged, batch)
    theirs = gradients(student, want)
    student.load_adapter(str(tmp_path / "expert"), adapter_name="expert", is_trainable=False)
    student.set_adapter("default")
    attach_loss(student)
    teachers = {0: AdapterTeacher(student, None), 1: AdapterTeacher(student, "expert")}
    got = fused(student, batch, teachers, mix=Mix())
    assert float(got) == pytest.approx(float(want), rel=5e-6)
    ours = gradients(student, got)
    assert all(".default." in name for name in ours)
    assert_same(ours, theirs)


@pytest.mark.parametrize("sizes", [[4], [2, 2], [1, 1, 1, 1]])
def test_gradient_does_not_depend_on_micro_batch_size(sizes: list[int]) -> None:
    student, teacher, batch = make_model(1), make_model(2), make_batch(rows=4)
    install_attention_hook(student)
    install_attention_hook(teacher)
    attach_loss(student)
    total = labelled_positions(batch["labels"]).sum().float()
    student.zero_grad()
    start, loss_sum = 0, 0.0
    for size in sizes:
        part = {name: value[start : start + size] for name, value in batch.items()}
        objective = Objective(Mix(), {0: OnlineTeacher(teacher)}, {0: 0, 1: 1, 2: 2}, 1.0)
        step = loss_inputs(objective, part, total)
        loss = student(
            input_ids=part["input_ids"], attention_mask=part["attention_mask"], step=step
        )["loss"]
        loss.backward()
        loss_sum += float(loss)
        start += size
    ours = {n: p.grad.clone() for n, p in student.named_parameters()}
    fresh = make_model(1)
    want = reference_step.kd_loss(fresh, teacher, batch, layers={0: 0, 1: 1, 2: 2})
    assert loss_sum == pytest.approx(float(want), rel=5e-6)
    assert_same(ours, gradients(fresh, want))


def test_unrecorded_attention_is_an_error() -> None:
    tape = AttentionTape({0: 0}, [torch.tensor([1])], torch.ones(1, 3, dtype=torch.bool))
    with pytest.raises(ModelError, match="no attention was recorded"):
        tape.total()


def test_attention_hook_does_not_change_logits() -> None:
    model, batch = make_model(1, "mistral"), make_batch()
    before = model(input_ids=batch["input_ids"], attention_mask=batch["attention_mask"]).logits
    install_attention_hook(model)
    after = model(input_ids=batch["input_ids"], attention_mask=batch["attention_mask"]).logits
    assert torch.equal(before, after)


def test_attention_outside_the_interface_is_reported() -> None:
    student, teacher, batch = make_model(1, "falcon"), make_model(2, "falcon"), make_batch()
    install_attention_hook(student)
    install_attention_hook(teacher)
    attach_loss(student)
    with pytest.raises(ModelError, match="does not use transformers' attention interface"):
        fused(student, batch, {0: OnlineTeacher(teacher)}, mix=Mix(), layers={0: 0}, gamma=1.0)
