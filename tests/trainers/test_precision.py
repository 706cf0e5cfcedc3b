"""What each precision loads, trains and saves, and what it learns at a small learning rate."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from pydantic import ValidationError
from safetensors.torch import load_file

from kdharness.harness.config.precision import precision_of
from kdharness.harness.config.trainer import TrainerSpec
from kdharness.harness.config.training import config_hash
from kdharness.harness.errors import ConfigError, Interrupted
from kdharness.harness.paths import Paths
from kdharness.trainers import loop
from kdharness.trainers.precision import check_setup, movable_share, stochastic_optimizer
from support.reporters import Listener
from support.training_runs import config_of, train


def weights(folder: Path) -> dict[str, torch.Tensor]:
    return load_file(next(folder.glob("*model.safetensors")))


def moved(before: dict[str, torch.Tensor], after: dict[str, torch.Tensor]) -> float:
    """Return the share of weights that differ."""
    changed = sum(int((before[name].float() != after[name].float()).sum()) for name in after)
    return changed / sum(value.numel() for value in after.values())


# ---------------------------------------------------------------- choosing


@pytest.mark.parametrize(
    ("name", "old", "lora", "has_bf16", "want"),
    [
        ("auto", "auto", False, False, ("fp32", "float32", "float32", False)),
        ("auto", "auto", False, True, ("mixed", "float32", "float32", True)),
        ("auto", "auto", True, True, ("mixed", "bfloat16", "float32", True)),
        ("mixed", "auto", False, False, ("mixed", "float32", "float32", True)),
        ("bf16-sr", "auto", False, True, ("bf16-sr", "bfloat16", "bfloat16", False)),
        ("bf16", "auto", True, True, ("bf16", "bfloat16", "bfloat16", False)),
        ("auto", "float32", False, True, ("fp32", "float32", "float32", False)),
        ("auto", "bfloat16", False, True, ("bf16", "bfloat16", "bfloat16", False)),
        ("auto", "bfloat16", True, True, ("mixed", "bfloat16", "float32", True)),
    ],
)
def test_precision_by_device_and_adapter(
    name: str, old: str, lora: bool, has_bf16: bool, want: tuple[str, str, str, bool]
) -> None:
    got = precision_of(name, old, lora=lora, has_bf16=has_bf16)
    assert (got.name, got.weights, got.trained, got.autocast) == want


@pytest.mark.parametrize(
    ("trainer", "lora", "message"),
    [
        ({"dtype": "float16"}, False, "float16 is not supported"),
        ({"dtype": "bfloat16", "precision": "mixed"}, False, "which is mixed here: remove dtype"),
        ({"precision": "bf16-sr", "optimizer": "sgd"}, False, "not those of sgd"),
        ({"precision": "bf16-sr", "optimizer": "adafactor"}, False, "not those of adafactor"),
        ({"precision": "bf16-sr"}, True, "set precision: mixed"),
        ({"precision": "fp16"}, False, "precision"),
    ],
)
@pytest.mark.parametrize("method", ["sft", "kd", "dae"])
def test_invalid_combination_is_refused(
    method: str, trainer: dict[str, Any], lora: bool, message: str, tmp_path: Path
) -> None:
    with pytest.raises((ConfigError, ValidationError), match=message):
        config_of(tmp_path, method, lora=lora, **trainer)


def test_stochastic_rounding_of_adapters_is_refused_in_a_plugin_too() -> None:
    """Its config has checks of its own; a missing entry of a table was a KeyError."""
    with pytest.raises(ConfigError, match="set precision: mixed"):
        precision_of("bf16-sr", "auto", lora=True, has_bf16=True)


@pytest.mark.parametrize(
    ("precision", "launched", "fits"),
    [
        ("fp32", "no", True),
        ("fp32", "bf16", False),
        ("bf16-sr", "bf16", False),
        ("mixed", "bf16", True),
        ("mixed", "no", True),
        ("mixed", "fp16", False),
    ],
)
def test_accelerate_cannot_change_the_precision(precision: str, launched: str, fits: bool) -> None:
    """The file of `--accelerate` used to win: with precision: fp32, products were bf16."""
    chosen = precision_of(precision, "auto", lora=False, has_bf16=True)
    spec = TrainerSpec.model_validate({"precision": precision})
    environ = {"ACCELERATE_MIXED_PRECISION": launched}
    if fits:
        check_setup(chosen, spec, environ)
    else:
        with pytest.raises(ConfigError, match=f"mixed_precision: {launched}, which is not"):
            check_setup(chosen, spec, environ)


def test_sharded_8bit_state_is_refused_before_models_are_loaded() -> None:
    spec = TrainerSpec(precision="bf16-sr", optimizer="adamw_8bit")
    chosen = spec.precision_on(lora=False, has_bf16=True)
    check_setup(chosen, spec, {})
    with pytest.raises(ConfigError, match="cannot be sharded"):
        check_setup(chosen, spec, {"ACCELERATE_USE_FSDP": "true"})


@pytest.mark.parametrize(
    ("package", "trainer"),
    [
        ("torchao", {"precision": "bf16-sr"}),
        ("bitsandbytes", {"precision": "mixed", "optimizer": "adamw_8bit"}),
        ("bitsandbytes", {"precision": "fp32", "optimizer": "adamw_8bit"}),
    ],
)
def test_missing_package_is_reported_before_models_are_loaded(
    package: str,
    trainer: dict[str, Any],
    tiny_teacher: Path,
    paths: Paths,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    for name in (package, f"{package}.optim"):
        monkeypatch.setitem(sys.modules, name, None)
    monkeypatch.setattr(loop, "load_student", lambda *_, **__: pytest.fail("a model was loaded"))
    with pytest.raises(ConfigError, match=f"needs the package {package}"):
        train(config_of(tiny_teacher, **trainer), paths, "r")


def test_default_precision_keeps_the_hash(tmp_path: Path) -> None:
    plain = config_of(tmp_path, "kd")
    assert config_hash(plain) == config_hash(config_of(tmp_path, "kd", precision="auto"))
    others = {config_hash(config_of(tmp_path, "kd", precision=p)) for p in ("fp32", "mixed")}
    assert len({config_hash(plain), *others}) == 3


# ---------------------------------------------------------------- the share that can move


@pytest.mark.parametrize(("rate", "share"), [(2e-5, 0.30), (1e-5, 0.16)])
def test_movable_share_of_7b_like_weights(rate: float, share: float) -> None:
    """The figures for weights drawn with a standard deviation of 0.02."""
    torch.manual_seed(0)
    drawn = (0.02 * torch.randn(400_000)).bfloat16()
    assert movable_share([drawn], rate) == pytest.approx(share, abs=0.01)
    # By adding the step itself: those that round to another value.
    added = (drawn.float() + rate).bfloat16() != drawn
    taken = (drawn.float() - rate).bfloat16() != drawn
    assert float((added | taken).float().mean()) == pytest.approx(share, abs=0.02)


def test_any_step_moves_a_weight_from_zero() -> None:
    """Half of a new adapter is zero."""
    weights = torch.tensor([0.0, 0.0, 1.0, -1.0]).bfloat16()
    assert movable_share([weights], 1e-6) == 0.5


# ---------------------------------------------------------------- training


@pytest.mark.slow
@pytest.mark.parametrize(
    ("precision", "lora", "stored"),
    [
        ("auto", False, torch.float32),
        ("fp32", False, torch.float32),
        ("mixed", False, torch.float32),
        ("bf16-sr", False, torch.bfloat16),
        ("bf16", False, torch.bfloat16),
        ("mixed", True, torch.float32),
        ("fp32", True, torch.float32),
        ("bf16", True, torch.bfloat16),
    ],
)
@pytest.mark.parametrize("method", ["sft", "kd", "dae"])
def test_every_method_trains(
    method: str,
    precision: str,
    lora: bool,
    stored: torch.dtype,
    tiny_teacher: Path,
    paths: Paths,
) -> None:
    config = config_of(tiny_teacher, method, lora, precision=precision, max_steps=2)
    folder, reporter = train(config, paths, "r")
    assert {value.dtype for value in weights(folder).values()} == {stored}
    losses = [point["loss"] for _, point in reporter.points if "loss" in point]
    assert len(losses) == 2 and all(loss == loss for loss in losses)
    warned = any("loses small updates" in text for _, text in reporter.said)
    assert warned == (precision == "bf16")


@pytest.mark.slow
def test_only_plain_bf16_leaves_weights_behind(tiny_teacher: Path, paths: Paths) -> None:
    """Six steps at 1e-5 move all fp32 weights, few bf16 ones, and as many as due when rounded.

    The rounded weights are right on average: their mean error against fp32 is far below that of
    plain bf16.
    """
    before = weights(tiny_teacher)
    after = {}
    for precision in ("fp32", "mixed", "bf16-sr", "bf16"):
        config = config_of(tiny_teacher, precision=precision, learning_rate=1e-5)
        after[precision] = weights(train(config, paths, precision)[0])
    start = {name: value.bfloat16() for name, value in before.items()}
    assert moved(before, after["fp32"]) > 0.9 and moved(before, after["mixed"]) > 0.9
    assert moved(start, after["bf16"]) < 0.5 * moved(start, after["bf16-sr"])

    def progress(name: str) -> float:
        """Return the step made along fp32's, as a share of it."""
        base = before if after[name]["model.norm.weight"].dtype == torch.float32 else start
        along = whole = 0.0
        for key, value in after["fp32"].items():
            step = (value - before[key]).flatten().double()
            along += float(step @ (after[name][key].float() - base[key].float()).flatten().double())
            whole += float(step @ step)
        return along / whole

    assert progress("mixed") == pytest.approx(1, abs=0.1)
    assert progress("bf16-sr") == pytest.approx(1, abs=0.2)
    assert progress("bf16") < 0.6


@pytest.mark.slow
@pytest.mark.parametrize("optimizer", ["adamw", "adamw_8bit"])
def test_stochastic_rounding_resumes_exactly(
    optimizer: str, tiny_teacher: Path, paths: Paths
) -> None:
    def config() -> Any:
        return config_of(tiny_teacher, precision="bf16-sr", optimizer=optimizer, learning_rate=1e-3)

    whole, _ = train(config(), paths, "whole")
    with pytest.raises(Interrupted):
        train(config(), paths, "parts", reporter=Listener(stop_at_step=2))
    parts, _ = train(config(), paths, "parts", resume=True)
    want, got = weights(whole), weights(parts)
    assert all(torch.equal(want[name], got[name]) for name in want)


def test_optimizer_state_of_stochastic_rounding_is_fp32() -> None:
    """A bf16 second moment would never decay: 0.999 is below half a unit in the last place."""
    kind, options = stochastic_optimizer(TrainerSpec(precision="bf16-sr"), seed=1)
    weight = torch.nn.Parameter(torch.ones(64, 64).bfloat16())
    optimizer = kind([weight], **options)
    weight.grad = torch.ones_like(weight)
    optimizer.step()
    state = optimizer.state[weight]
    assert state["exp_avg"].dtype == state["exp_avg_sq"].dtype == torch.float32
    optimizer.load_state_dict(optimizer.state_dict())
    assert optimizer.state[weight]["exp_avg_sq"].dtype == torch.float32


def test_unquantised_8bit_state_is_fp32() -> None:
    """torchao quantises 4,096 values or more, and kept the state of smaller norms in bf16."""
    spec = TrainerSpec(precision="bf16-sr", optimizer="adamw_8bit")
    kind, options = stochastic_optimizer(spec, seed=1)
    norm, matrix = (torch.nn.Parameter(torch.ones(n).bfloat16()) for n in (64, 4096))
    optimizer = kind([norm, matrix], **options)
    for weight in (norm, matrix):
        weight.grad = torch.ones_like(weight)
    optimizer.step()
    assert optimizer.state[norm]["exp_avg_sq"].dtype == torch.float32
    assert type(optimizer.state[matrix]["exp_avg_sq"]).__name__ == "OptimState8bit"


def test_rounding_is_right_on_average_and_the_same_on_every_process() -> None:
    def stepped(seed: int) -> torch.Tensor:
        kind, options = stochastic_optimizer(
            TrainerSpec(precision="bf16-sr", learning_rate=1e-5), seed
        )
        weight = torch.nn.Parameter(torch.ones(200_000).bfloat16())
        optimizer = kind([weight], **options, weight_decay=0.0)
        weight.grad = torch.ones_like(weight)
        torch.manual_seed(int(torch.randint(1 << 30, ())))  # another process's own draws
        optimizer.step()
        return weight.detach().float()

    first = stepped(1)
    assert torch.equal(first, stepped(1)) and not torch.equal(first, stepped(2))
    # bf16 next to 1 has a spacing of 2^-8 below it: a step of 1e-5 moves 1 in 390 weights.
    assert float(1 - first.mean()) == pytest.approx(1e-5, rel=0.15)


@pytest.mark.slow
def test_former_name_is_honored_with_a_warning(tiny_teacher: Path, paths: Paths) -> None:
    config = config_of(tiny_teacher, dtype="bfloat16", max_steps=1)
    folder, reporter = train(config, paths, "r")
    assert {value.dtype for value in weights(folder).values()} == {torch.bfloat16}
    assert any(
        "former name of trainer.precision: this is bf16" in text for _, text in reporter.said
    )


@pytest.mark.slow
def test_teacher_caches_of_two_precisions_are_two(tiny_teacher: Path, paths: Paths) -> None:
    """A cache was found by the teacher's weights alone, whatever they were rounded to."""
    config = config_of(tiny_teacher, "kd", max_steps=1, attention_weight=0)
    for dtype in ("auto", "bfloat16"):
        teacher = config.teacher.model_validate(
            {"model": str(tiny_teacher), "dtype": dtype, "cache": {"k": 4}}
        )
        train(config.model_copy(update={"teacher": teacher}), paths, dtype)
    assert len(list(paths.cache.glob("*/note.json"))) == 2


@pytest.mark.slow
def test_teacher_on_the_students_base_keeps_its_own_precision(
    tiny_teacher: Path, paths: Paths
) -> None:
    """A teacher that shares the student's base had the base's precision, whatever it asked for."""
    config = config_of(tiny_teacher, "dae", lora=True, max_steps=1, precision="fp32")
    first = {}
    for dtype in ("auto", "float32", "bfloat16"):
        expert = config.expert.model_copy(update={"dtype": dtype})
        _, reporter = train(config.model_copy(update={"expert": expert}), paths, dtype)
        first[dtype] = next(point["kl"] for _, point in reporter.points if "kl" in point)
    assert first["auto"] == first["float32"] == pytest.approx(0, abs=1e-6)
    assert first["bfloat16"] > 1e-6


@pytest.mark.slow
def test_precision_of_an_earlier_run_does_not_change_a_cut_student(
    tiny_teacher: Path, paths: Paths
) -> None:
    """The cut was stored in the first run's dtype, and later runs started from its rounding."""
    first, then = (
        config_of(tiny_teacher, max_steps=1, **trainer)
        for trainer in ({"dtype": "bfloat16"}, {"precision": "fp32"})
    )
    for name, config in (("first", first), ("then", then)):
        cut = config.student.model_copy(
            update={"model": None, "source": str(tiny_teacher), "keep_layers": 2}
        )
        train(config.model_copy(update={"student": cut}), paths, name)
    (made,) = paths.models.glob("cut-*")
    assert {value.dtype for value in weights(made).values()} == {torch.float32}


# ---------------------------------------------------------------- devices


def test_one_gpu_for_several_processes_is_refused(tiny_teacher: Path, paths: Paths) -> None:
    config = config_of(tiny_teacher, device="cuda:1")
    with pytest.raises(ConfigError, match="is one GPU, but this run has 2 processes"):
        train(config, paths, "r", world=2)
