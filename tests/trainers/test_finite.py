"""Gradients and weights that are no numbers end a run before anything good is lost."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from kdharness.harness.errors import RunError
from kdharness.harness.paths import Paths
from kdharness.harness.util.atomic import is_sealed
from kdharness.trainers.finite import first_not_finite, refuse_not_finite
from kdharness.trainers.trainer import DistillTrainer
from support.training_runs import config_of, train
from support.training_steps import make_model, with_lora


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_the_first_weight_that_is_no_number_is_named(value: float, dtype: torch.dtype) -> None:
    model = make_model(1).to(dtype)
    assert first_not_finite(model) == ""
    refuse_not_finite(model, 3)
    model.model.layers[1].mlp.up_proj.weight.data[3, 4] = value
    model.model.norm.weight.data[0] = value
    assert first_not_finite(model) == "model.layers.1.mlp.up_proj.weight"
    with pytest.raises(RunError, match=r"not finite after step 3: model\.layers\.1\.mlp\.up_proj"):
        refuse_not_finite(model, 3)


def test_large_weights_and_empty_ones_are_finite() -> None:
    model = make_model(1)
    model.model.norm.weight.data[:2] = torch.tensor([3e38, -3e38])
    model.empty = torch.nn.Parameter(torch.empty(0))
    assert first_not_finite(model) == ""


def test_only_weights_that_are_trained_are_looked_at() -> None:
    model = with_lora(make_model(1), 4)
    assert first_not_finite(model) == ""
    name, weight = next((n, p) for n, p in model.named_parameters() if p.requires_grad)
    weight.data[0, 0] = math.nan
    assert first_not_finite(model) == name


def break_gradients(monkeypatch: pytest.MonkeyPatch, value: float, before_step: int) -> None:
    """Give one weight a gradient that is no number, while the loss stays finite."""
    original = DistillTrainer.training_step

    def training_step(self: Any, model: Any, *args: Any, **kwargs: Any) -> Any:
        loss = original(self, model, *args, **kwargs)
        if self.state.global_step + 1 == before_step:
            weight = next(p for p in model.parameters() if p.grad is not None)
            weight.grad.view(-1)[0] = value
        return loss

    monkeypatch.setattr(DistillTrainer, "training_step", training_step)


@pytest.mark.parametrize("clipped", [1.0, 0.0])
@pytest.mark.parametrize(("value", "shown"), [(math.nan, "nan"), (math.inf, "inf")])
def test_a_broken_gradient_stops_the_run_before_the_update(
    value: float,
    shown: str,
    clipped: float,
    tiny_teacher: Path,
    paths: Paths,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    break_gradients(monkeypatch, value, before_step=3)
    config = config_of(
        tiny_teacher,
        max_steps=4,
        batch_size=2,
        accumulation=2,
        save_every=1,
        keep=1,
        max_grad_norm=clipped,
    )
    with pytest.raises(RunError, match=f"the gradient's norm is {shown} .* at step 3") as caught:
        train(config, paths, "broken")
    assert len(caught.value.where.split("; ")) == 4  # the rows of both micro-batches
    folder = paths.runs / "broken"
    assert not (folder / "final").exists()
    (kept,) = folder.glob("checkpoint-*")
    assert kept.name == "checkpoint-2" and is_sealed(kept)
    weights = load_file(kept / "model.safetensors")
    assert all(weight.isfinite().all() for weight in weights.values())


@pytest.mark.parametrize("every", [0, 1])
def test_weights_that_overflow_in_the_last_update_are_not_saved(
    every: int, tiny_teacher: Path, paths: Paths, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The loss and the gradient of a step are those of the weights before its update."""
    original = DistillTrainer.pull_to_start

    def break_weights(self: Any) -> None:
        original(self)
        if self.state.global_step == 2:
            next(self.model.parameters()).data.view(-1)[0] = math.inf

    monkeypatch.setattr(DistillTrainer, "pull_to_start", break_weights)
    config = config_of(tiny_teacher, max_steps=3, save_every=every, keep=1)
    with pytest.raises(RunError, match="the weights are not finite after step 3"):
        train(config, paths, "overflow")
    folder = paths.runs / "overflow"
    assert not (folder / "final").exists()
    assert [path.name for path in folder.glob("checkpoint-*")] == ["checkpoint-2"] * bool(every)


def test_a_gradient_that_a_scaler_looks_after_is_left_to_it() -> None:
    trainer = DistillTrainer.__new__(DistillTrainer)
    accelerator: Any = type("Accelerator", (), {"scaler": None, "distributed_type": "NO"})()
    trainer.accelerator = accelerator
    assert trainer._get_grad_norm(None, torch.tensor(math.inf)) == math.inf
    assert trainer.grad_norm == math.inf
    accelerator.scaler = object()
    assert trainer._get_grad_norm(None, torch.tensor(math.inf)) == math.inf
    assert trainer.grad_norm is None
