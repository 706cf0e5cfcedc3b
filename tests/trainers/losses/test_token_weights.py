"""TALR: the published formula, and steps that are split in every way."""

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
from kdharness.harness.config.trainer import SFTSpec, TrainerSpec
from kdharness.harness.config.training import SFTConfig, config_hash
from kdharness.harness.errors import ConfigError
from kdharness.harness.paths import Paths
from kdharness.trainers.data.layout import layout_of
from kdharness.trainers.kernels import Kernels, reference_parts
from kdharness.trainers.losses.attention import attention_kl
from kdharness.trainers.losses.fused import Mix, chunk_loss
from kdharness.trainers.losses.token_weights import (
    TokenWeights,
    batch_temperature,
    row_means,
    talr_weights,
)
from kdharness.trainers.step import attach_loss
from support.reference_step import shifted
from support.training_runs import config_of, train
from support.training_steps import (
    assert_same,
    fused,
    gradients,
    make_batch,
    make_model,
    with_lora,
)

FLOOR = 0.35
"""So high that some tokens of a small random model are at it."""


def reference(logits: Tensor, batch: dict[str, Tensor], floor: float) -> Tensor:
    """Return the loss as published, in float64, row by row."""
    mask = shifted(batch["labels"])
    rows = []
    for z, labels, inside in zip(logits.double(), batch["labels"], mask, strict=True):
        target = labels.roll(-1)
        rows.append([-z[t].log_softmax(-1)[target[t]] for t in inside.nonzero().flatten()])
    means = sorted(float(torch.stack(row).detach().mean()) for row in rows if row)
    middle = len(means) // 2
    tau = means[middle] if len(means) % 2 else (means[middle - 1] + means[middle]) / 2
    tokens = torch.stack([loss for row in rows for loss in row])
    weights = (-tokens.detach()).exp().pow(1 / tau)
    assert 0 < int((weights < floor).sum()) < len(weights)
    return (weights.clamp(min=floor) * tokens).sum() / mask.sum()


@pytest.mark.parametrize("rows", [3, 4])
@pytest.mark.parametrize("case", ["plain", "lora", "packed", "softcap"])
def test_step_matches_the_published_formula(case: str, rows: int) -> None:
    student = make_model(1, "gemma2") if case == "softcap" else make_model(1)
    if case == "lora":
        student = with_lora(student, 5)
    batch = make_batch(rows=rows)
    logits = student(
        input_ids=batch["input_ids"], attention_mask=batch["attention_mask"], use_cache=False
    ).logits
    want = reference(logits, batch, FLOOR)
    theirs = gradients(student, want)
    attach_loss(student)
    if case == "packed":
        batch["layout"] = layout_of(batch, packing=True)
    mix = Mix(kl_weight=0.0, ce_weight=1.0, chunk=5, token_weights=TokenWeights(FLOOR))
    got = fused(student, batch, {}, mix=mix)
    assert float(got) == pytest.approx(float(want), rel=2e-6)
    assert_same(gradients(student, got), theirs)


def test_a_floor_of_one_is_plain_sft() -> None:
    student, batch = make_model(1), make_batch()
    attach_loss(student)
    plain = fused(student, batch, {}, mix=Mix(kl_weight=0.0, ce_weight=1.0))
    theirs = gradients(student, plain)
    mix = Mix(kl_weight=0.0, ce_weight=1.0, token_weights=TokenWeights(1.0))
    got = fused(student, batch, {}, mix=mix)
    assert float(got) == pytest.approx(float(plain), rel=1e-6)
    assert_same(gradients(student, got), theirs, 1e-6)


@given(
    losses=st.lists(st.floats(0, 60), min_size=1, max_size=30),
    tau=st.floats(1e-6, 20),
    floor=st.floats(1e-4, 1),
)
def test_weights_fall_with_the_loss_and_stay_above_the_floor(
    losses: list[float], tau: float, floor: float
) -> None:
    ordered = torch.tensor(sorted(losses), dtype=torch.float64)
    weights = talr_weights(ordered, torch.tensor(tau, dtype=torch.float64), floor)
    assert bool(torch.isfinite(weights).all())
    assert float(weights.min()) >= floor
    assert float(weights.max()) <= 1
    assert bool((weights.diff() <= 0).all())


@given(st.lists(st.lists(st.floats(0, 30), max_size=6), min_size=1, max_size=9), st.randoms())
def test_temperature_does_not_depend_on_the_order_of_rows(
    rows: list[list[float]], draw: Any
) -> None:
    rows = [*rows, [1.0]]  # at least one row is labelled
    shuffled = draw.sample(rows, len(rows))

    def temperature(of: list[list[float]]) -> float:
        flat = torch.tensor([loss for row in of for loss in row], dtype=torch.float64)
        return float(batch_temperature(row_means(flat, [len(row) for row in of])))

    assert temperature(rows) == pytest.approx(temperature(shuffled), rel=1e-12)


def test_rows_without_labelled_tokens_do_not_count() -> None:
    """Nor does a micro-batch of such rows, whose process still takes part in the step."""
    assert row_means(torch.tensor([1.0, 3.0, 5.0]), [0, 2, 0, 1]).tolist() == [2.0, 5.0]
    empty = row_means(torch.zeros(0), [0, 0])
    assert bool(torch.isnan(empty).all())
    assert float(batch_temperature(torch.cat([empty, torch.tensor([2.0, 4.0])]))) == 3.0


def test_tokens_that_are_certain_have_weight_one() -> None:
    """A model that has learnt its rows by heart has τ = 0, which is no exponent."""
    losses = torch.tensor([0.0, 0.0, 0.0, 5.0])
    tau = batch_temperature(row_means(losses, [2, 1, 1]))
    assert float(tau) > 0
    assert talr_weights(losses, tau, 0.01).tolist() == pytest.approx([1, 1, 1, 0.01])


@pytest.mark.slow
@pytest.mark.parametrize("setting", ["full", "lora", "packing"])
def test_how_a_step_is_split_does_not_matter(
    setting: str, tiny_teacher: Path, paths: Paths
) -> None:
    """The temperature is that of the whole step, not of a micro-batch."""
    got: dict[int, tuple[list[float], list[float], dict[str, Tensor]]] = {}
    for rows, parts in ((4, 1), (1, 4)):
        config = config_of(
            tiny_teacher,
            lora=setting == "lora",
            max_steps=2,
            batch_size=rows,
            accumulation=parts,
            packing=setting == "packing",
            optimizer="sgd",
            learning_rate=0.5,
            length_groups="none",
            token_weights="talr",
        )
        folder, reporter = train(config, paths, f"split-{parts}")
        curves = {
            name: [point[name] for _, point in reporter.points if name in point]
            for name in ("loss", "ce")
        }
        (file,) = folder.glob("*.safetensors")
        got[parts] = curves["loss"], curves["ce"], load_file(file)
    loss, ce, weights = got.pop(1)
    # The curve of the plain loss is that of plain SFT at its first step; the weighted one is lower.
    assert loss[0] < 0.9 * ce[0]
    for others, plain, tensors in got.values():
        assert others == pytest.approx(loss, rel=1e-5)
        assert plain == pytest.approx(ce, rel=1e-5)
        for name, tensor in tensors.items():
            assert torch.allclose(tensor, weights[name], atol=2e-6), name


def test_settings_that_mean_nothing_are_refused_by_name(tiny_teacher: Path) -> None:
    with pytest.raises(ConfigError, match="token_weight_floor has no effect"):
        config_of(tiny_teacher, token_weight_floor=0.1)
    with pytest.raises(ConfigError, match="token_weights"):
        config_of(tiny_teacher, method="kd", token_weights="talr")
    with pytest.raises(ConfigError, match="greater than 0"):
        config_of(tiny_teacher, token_weights="talr", token_weight_floor=0)


def test_the_default_keeps_a_configs_identity_and_shared_settings_are_accepted() -> None:
    values = {"method": "sft", "student": "m", "data": {"train": "general:train"}}
    plain = parse_config({**values, "trainer": {"epochs": 1}})
    given = parse_config({**values, "trainer": {"epochs": 1, "token_weights": "none"}})
    other = parse_config({**values, "trainer": {"epochs": 1, "token_weights": "talr"}})
    assert config_hash(plain) == config_hash(given) != config_hash(other)
    assert isinstance(plain, SFTConfig)
    made = SFTConfig(
        student=plain.student,
        data=plain.data,
        trainer=TrainerSpec(epochs=1),  # type: ignore[arg-type]
    )
    assert made.trainer == SFTSpec(epochs=1)
    assert config_hash(made) == config_hash(plain)


def test_kernels_say_that_they_leave_the_loss_to_the_reference() -> None:
    triton = Kernels("triton", attention_kl, chunk_loss)
    assert "token weights" in reference_parts(triton, {}, weighted=True)
    assert "non-target tokens" in reference_parts(triton, {}, anchored=True)
    assert not reference_parts(triton, {})
