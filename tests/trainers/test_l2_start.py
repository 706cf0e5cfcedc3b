"""The pull towards the starting weights: its formula, adapters, resuming, several processes."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from hypothesis import given
from hypothesis import strategies as st
from safetensors.torch import load_file
from torch import Tensor

from kdharness.harness import cli
from kdharness.harness.config.files import parse_config
from kdharness.harness.config.training import config_hash
from kdharness.harness.errors import ConfigError, Interrupted
from kdharness.harness.paths import Paths
from kdharness.harness.runs.estimate import auto_precision, estimate
from kdharness.harness.runs.log_output import log_tail
from kdharness.trainers.l2_start import StartAnchor, check_engine
from support.engines import COMMON
from support.reporters import Listener
from support.training_runs import config_of, train
from support.training_steps import make_model, with_lora

FSDP2 = {
    **COMMON,
    "distributed_type": "FSDP",
    "fsdp_config": {
        "fsdp_version": 2,
        "fsdp_auto_wrap_policy": "TRANSFORMER_BASED_WRAP",
        "fsdp_transformer_layer_cls_to_wrap": "LlamaDecoderLayer",
        "fsdp_state_dict_type": "FULL_STATE_DICT",
        "fsdp_reshard_after_forward": True,
    },
}


def final(folder: Path) -> dict[str, Tensor]:
    (file,) = folder.glob("*.safetensors")
    return dict(load_file(file))


def distance(weights: dict[str, Tensor], start: dict[str, Tensor]) -> float:
    return float(torch.stack([(weights[n] - start[n]).norm() for n in start]).norm())


# ---------------------------------------------------------------- the formula


@given(rate=st.floats(1e-5, 0.5), strength=st.floats(0.01, 1.9), seed=st.integers(0, 99))
def test_sgd_with_the_pull_is_the_gradient_of_the_penalty(
    rate: float, strength: float, seed: int
) -> None:
    """With SGD, decoupled or in the loss is the same; in float64, over several steps."""
    torch.manual_seed(seed)
    layer = torch.nn.Linear(3, 2, dtype=torch.float64)
    start = {name: value.detach().clone() for name, value in layer.named_parameters()}
    want = {name: value.clone().requires_grad_() for name, value in start.items()}
    x, y = torch.randn(5, 3, dtype=torch.float64), torch.randn(5, 2, dtype=torch.float64)
    optimizer, anchor = torch.optim.SGD(layer.parameters(), lr=rate), StartAnchor(strength)
    for _ in range(4):
        optimizer.zero_grad()
        (layer(x) - y).square().mean().backward()
        anchor.keep(layer)
        anchor.pull(optimizer)
        optimizer.step()
        loss = (x @ want["weight"].t() + want["bias"] - y).square().mean()
        penalty = sum((want[n] - start[n]).square().sum() for n in start)
        grads = torch.autograd.grad(loss + strength / 2 * penalty, list(want.values()))
        want = {
            name: (value - rate * grad).detach().requires_grad_()
            for (name, value), grad in zip(want.items(), grads, strict=True)
        }
    for name, value in layer.named_parameters():
        assert torch.allclose(value, want[name], rtol=1e-9, atol=1e-12)


def test_adamw_pulls_to_zero_as_its_own_weight_decay_does() -> None:
    """From a start of 0 the pull is weight decay: the values mean the same."""
    torch.manual_seed(0)
    grads = torch.randn(6, 4)
    results = []
    for decay, strength in ((0.3, 0.0), (0.0, 0.3)):
        weight = torch.nn.Parameter(torch.zeros(4))
        model = torch.nn.Module()
        model.weight = weight
        optimizer = torch.optim.AdamW([weight], lr=0.1, weight_decay=decay)
        anchor = StartAnchor(strength)
        for grad in grads:
            weight.grad = grad.clone()
            anchor.keep(model)
            anchor.pull(optimizer)
            optimizer.step()
        results.append(weight.detach().clone())
    assert torch.allclose(*results, rtol=1e-6)


def test_an_adapters_product_shrinks_by_exactly_the_share() -> None:
    model = with_lora(make_model(1), 5)
    optimizer = torch.optim.SGD([p for p in model.parameters() if p.requires_grad], lr=0.5)
    layers = [m for m in model.modules() if hasattr(m, "get_delta_weight")]
    assert layers
    before = [layer.get_delta_weight("default").clone() for layer in layers]
    base = {n: p.clone() for n, p in model.named_parameters() if not p.requires_grad}
    anchor = StartAnchor(0.4)
    anchor.keep(model)
    anchor.pull(optimizer)
    for layer, delta in zip(layers, before, strict=True):
        assert torch.allclose(layer.get_delta_weight("default"), 0.8 * delta, atol=1e-6)
    assert all(torch.equal(p, base[n]) for n, p in model.named_parameters() if n in base)
    assert not anchor.start  # no copy of anything


# ---------------------------------------------------------------- trainings


@pytest.mark.slow
@pytest.mark.parametrize("lora", [False, True])
def test_a_stronger_pull_ends_nearer_to_the_start(
    lora: bool, tiny_teacher: Path, paths: Paths
) -> None:
    distances = []
    for strength in (0.0, 90.0):
        config = config_of(
            tiny_teacher, lora=lora, learning_rate=0.01, max_steps=3, l2_start=strength
        )
        weights = final(train(config, paths, f"pull-{strength}")[0])
        if lora:
            start = {n: torch.zeros_like(w) for n, w in weights.items() if "lora_B" in n}
        else:
            start = final(tiny_teacher)
        distances.append(distance(weights, start))
    assert distances[0] > 1.5 * distances[1] > 0


@pytest.mark.slow
def test_a_resumed_run_is_pulled_to_the_start_of_the_run(tiny_teacher: Path, paths: Paths) -> None:
    """Not to the checkpoint that it resumes from."""
    settings: dict[str, Any] = {"learning_rate": 0.01, "l2_start": 30.0, "precision": "mixed"}
    config = config_of(tiny_teacher, **settings)
    calm = final(train(config, paths, "calm")[0])
    with pytest.raises(Interrupted):
        train(config, paths, "hit", reporter=Listener(stop_at_step=3))
    hit = final(train(config, paths, "hit", resume=True)[0])
    assert all(torch.equal(calm[name], hit[name]) for name in calm)


@pytest.mark.slow
def test_two_processes_with_shards_match_a_single_process(
    tiny_teacher: Path, tmp_path: Path, paths: Paths
) -> None:
    """Token weights and the pull: of the whole step, and of each process's own shard."""
    values = {
        "method": "sft",
        "student": str(tiny_teacher),
        "data": {"train": [{"path": "general:train", "limit": 24}], "max_length": 64},
        "trainer": {
            "learning_rate": 0.01,
            "max_steps": 2,
            "batch_size": 2,
            "accumulation": 4,
            "device": "cpu",
            "optimizer": "sgd",
            "token_weights": "talr",
            "l2_start": 40.0,
        },
    }
    file = tmp_path / "c.yaml"
    file.write_text(yaml.safe_dump(values), "utf-8")
    home = ["--home", str(paths.home)]
    assert cli.run([*home, "train", str(file), "--name", "one"]) == 0
    want = final(paths.home / "runs" / "one" / "final")
    engine = tmp_path / "fsdp2.yaml"
    engine.write_text(yaml.safe_dump(FSDP2), "utf-8")
    options = ["--set", "trainer.accumulation=2", "--accelerate", str(engine)]
    code = cli.run([*home, "train", str(file), "--name", "two", *options])
    assert code == 0, log_tail(paths, "two", 30)
    got = final(paths.home / "runs" / "two" / "final")
    for name, value in want.items():
        assert torch.allclose(got[name], value, atol=2e-6), name
    assert distance(want, final(tiny_teacher)) > 1e-3


# ---------------------------------------------------------------- settings


def test_what_cannot_be_pulled_is_refused_by_name(tiny_teacher: Path) -> None:
    with pytest.raises(ConfigError, match="l2_start: precision: bf16-sr trains bf16 weights"):
        config_of(tiny_teacher, l2_start=1.0, precision="bf16-sr")
    with pytest.raises(ConfigError, match="l2_start: precision: bf16 trains bf16 weights"):
        config_of(tiny_teacher, "kd", l2_start=1.0, dtype="bfloat16")
    with pytest.raises(ConfigError, match="must be below 1"):
        config_of(tiny_teacher, l2_start=200.0, learning_rate=0.01)
    with pytest.raises(ConfigError, match="greater than or equal to 0"):
        config_of(tiny_teacher, l2_start=-1.0)
    for environ, engine in (
        ({"ACCELERATE_USE_DEEPSPEED": "true"}, "DeepSpeed"),
        ({"ACCELERATE_USE_FSDP": "true", "FSDP_VERSION": "1"}, "FSDP of version 1"),
    ):
        with pytest.raises(ConfigError, match=engine):
            check_engine(1.0, environ)
        check_engine(0.0, environ)
    check_engine(1.0, {"ACCELERATE_USE_FSDP": "true", "FSDP_VERSION": "2"})


def test_no_pull_keeps_a_configs_identity() -> None:
    values = {"method": "kd", "student": "m", "teacher": "t", "data": {"train": "general:train"}}
    plain, none, some = (
        parse_config({**values, "trainer": {"epochs": 1, **more}})
        for more in ({}, {"l2_start": 0.0}, {"l2_start": 0.1})
    )
    assert config_hash(plain) == config_hash(none) != config_hash(some)


def test_plan_counts_the_copy_of_the_start(
    tiny_teacher: Path, paths: Paths, monkeypatch: pytest.MonkeyPatch
) -> None:
    rows = {"steps": 2, "tokens": 100, "labelled": 50, "padding_share": 0.1, "width": 16}

    def memory(*, lora: bool = False, processes: int = 1, **trainer: Any) -> dict[str, float]:
        config = config_of(tiny_teacher, lora=lora, **trainer)
        engine = "fsdp2" if processes > 1 else "single"
        return estimate(config, paths, rows, engine=engine, processes=processes).memory

    plain, pulled = memory(), memory(l2_start=0.1)
    assert pulled.pop("starting weights") == plain["weights"]
    assert pulled == plain
    shard = memory(l2_start=0.1, processes=2)
    assert shard["starting weights"] == plain["weights"] / 2
    assert memory(lora=True, l2_start=0.1) == memory(lora=True)
    # On a GPU, too small for fp32 weights, `auto` must not fall back to bf16 weights.
    monkeypatch.setattr("kdharness.harness.runs.estimate._on_bf16_gpu", lambda device: True)
    chosen = auto_precision(
        config_of(tiny_teacher, l2_start=0.1, device="cuda"),
        paths,
        rows,
        engine="single",
        processes=1,
        device_bytes=1.0,
    )
    assert chosen is not None
    assert chosen[0] == "mixed"
    assert "bf16-sr" not in chosen[1]
