"""The benchmark for a GPU runs, at toy sizes on any device."""

from __future__ import annotations

import importlib
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

BENCH = Path(__file__).resolve().parents[2] / "bench"


@pytest.fixture
def bench(monkeypatch: pytest.MonkeyPatch) -> Callable[..., int]:
    """Return the script's main function, on a machine without a GPU."""
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.delenv("TRITON_INTERPRET", raising=False)
    monkeypatch.syspath_prepend(str(BENCH))
    script = importlib.import_module("bench_gpu")

    def run(*options: str) -> int:
        monkeypatch.setattr(sys, "argv", ["bench_gpu.py", *options])
        return int(script.main())

    return run


@pytest.mark.slow
def test_every_part_runs_and_is_in_the_table(
    bench: Callable[..., int], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert bench("--tiny", "--out", str(tmp_path / "gpu.md")) == 0
    table = (tmp_path / "gpu.md").read_text("utf-8")
    out = capsys.readouterr().out
    assert table in out and table.startswith(f"CPU, torch {torch.__version__}")
    for work in (
        "head, js, reference",
        "attention, other head counts, reference",
        "kd with LoRA, 3 steps, reference",
        "run, dae with LoRA, 6 steps",
        "bf16-sr: what fp32 gains and it does not",
        "head loss and gradients, 64 × 32 × 512",
        "SFT step, toy, 2 × 64",
        "attention loss",
        "DAE step, toy, 2 × 64",
        "answers, SmolLM2",
    ):
        assert f"| {work}" in table or f": {work} |" in table, work
    assert "FAIL" not in out


@pytest.mark.slow
def test_without_a_gpu_nothing_is_measured(
    bench: Callable[..., int], capsys: pytest.CaptureFixture[str]
) -> None:
    assert bench() == 2
    out, err = capsys.readouterr()
    assert "no CUDA GPU was found" in err and "tokens/s" not in out
