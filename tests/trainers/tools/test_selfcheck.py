"""The self-check passes the fused losses and fails a broken gradient."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml

from kdharness.harness import cli
from kdharness.harness.paths import Paths
from kdharness.trainers.flops import floor_flops, shape_of
from kdharness.trainers.losses import fused
from kdharness.trainers.losses.reference import reference_dae, reference_kd, reference_sft
from kdharness.trainers.tools import selfcheck
from kdharness.trainers.tools.measure import LiveBytes, count_flops, peak_bytes
from support.models import make_llama


@pytest.mark.slow
def test_tiny_models_pass_near_the_flops_floor() -> None:
    result = selfcheck.selfcheck(None, Paths(Path("/nowhere")))
    assert result["ok"], result
    assert [case["method"] for case in result["cases"]] == ["sft", "kd", "dae", "dae+lora"]
    for case in result["cases"]:
        assert case["loss_rel_error"] < 1e-5
        assert case["grad_rel_error"] < 1e-4
        assert 0.95 <= case["flops_over_floor"] <= 1.1
        assert case["peak_bytes_over_plain"] < 0.8
        assert case["tokens_per_second"] > 0


@pytest.mark.slow
def test_wrong_gradient_is_detected(monkeypatch: pytest.MonkeyPatch) -> None:
    original = fused.full_divergence

    def negated(zs: Any, zt: Any, mix: Any) -> Any:
        value, grad = original(zs, zt, mix)
        return value, -grad

    monkeypatch.setattr(fused, "full_divergence", negated)
    method, models, mix, weight = selfcheck.tiny_cases()[2]
    case = selfcheck.check(models, method, mix, weight)
    assert case.grad_rel_error > 1
    assert "the gradient is off" in case.note


def test_package_reference_step_matches_the_test_reference() -> None:
    """Two independently written references agree."""
    from support import reference_step

    student, a, b = (selfcheck.tiny_model(i, vocab_size=128) for i in (1, 2, 3))
    batch = selfcheck.random_batch(128, width=24)
    logits = reference_step.forward(student, batch, attention=False)[0]
    assert float(reference_sft(student, batch)) == pytest.approx(
        float(reference_step.ntp_loss(logits, batch["labels"])), rel=1e-6
    )
    layers = {0: 1, 3: 2}
    assert float(reference_kd(student, a, batch, layers, temperature=2.0)) == pytest.approx(
        float(reference_step.kd_loss(student, a, batch, temperature=2.0, layers=layers)),
        rel=1e-5,
    )
    assert float(reference_dae(student, a, b, batch)) == pytest.approx(
        float(reference_step.dae_loss(student, a, b, batch)), rel=1e-5
    )


@pytest.mark.slow
def test_full_logits_are_never_materialized() -> None:
    """Nothing as large as [B, T, V] or [B, H, T, T] of all layers appears in a fused KD step."""
    method, models, _, _ = selfcheck.tiny_cases()[1]
    mix = fused.Mix(chunk=16)
    rows, width = models.batch["input_ids"].shape
    largest = 0

    class LargestAllocation(LiveBytes):
        def _count(self, storage: Any) -> None:
            nonlocal largest
            largest = max(largest, storage.nbytes())

    weights = {p.untyped_storage().nbytes() for p in models.student.parameters()}
    with LargestAllocation():
        selfcheck.fused_step(models, method, mix, 1.0, block=8).backward()
    assert largest <= max(*weights, rows * width * 352 * 4)
    assert largest < rows * width * 4096 * 4


@pytest.mark.slow
def test_flop_and_byte_counters() -> None:
    a, b = torch.randn(4, 8), torch.randn(8, 16)
    assert count_flops(lambda: a @ b) == 2 * 4 * 8 * 16
    assert peak_bytes(lambda: torch.empty(1000)) == 4000

    def allocate_and_free() -> None:
        for _ in range(5):
            torch.empty(1000)

    assert peak_bytes(allocate_and_free) <= 8000
    q = torch.randn(2, 3, 10, 4)
    attention = torch.nn.functional.scaled_dot_product_attention
    assert count_flops(lambda: attention(q, q, q)) == 4 * 2 * 3 * 10 * 10 * 4


def test_flops_floor_matches_hand_computation() -> None:
    shape = shape_of(selfcheck.tiny_model(1))
    assert shape.body == 4 * (2 * 128 * 128 + 2 * 128 * 64 + 3 * 128 * 352) + 9 * 128
    got = floor_flops(shape, None, rows=1, width=10, labelled=4)
    scores = 4 * 100 * 4 * 8 * 16
    assert got == 6 * shape.body * 10 + 3.5 * scores + 6 * 4096 * 128 * 4


@pytest.mark.slow
@pytest.mark.parametrize("method", ["sft", "kd", "dae"])
def test_selfcheck_command_uses_the_models_of_the_config(
    method: str, tiny_teacher: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    train: Any = [{"path": "general:train", "limit": 8}]
    values: dict[str, Any] = {"method": method, "student": str(tiny_teacher)}
    if method == "kd":
        values |= {"student": {"from": "teacher", "keep_layers": 2}, "teacher": str(tiny_teacher)}
    if method == "dae":
        make_llama(tmp_path / "expert", seed=2)
        values |= {"expert": str(tmp_path / "expert")}
        train.append({"path": "shop:train", "kind": "domain", "limit": 8})
    values["data"] = {"train": train, "max_length": 64}
    path = tmp_path / "c.yaml"
    path.write_text(yaml.safe_dump(values), "utf-8")
    home = ["--home", str(tmp_path / "home")]
    code = cli.run([*home, "selfcheck", str(path), "--format", "json"])
    result = json.loads(capsys.readouterr().out)
    assert result["cases"][0]["method"] == method
    assert code == 0 and result["ok"], result
