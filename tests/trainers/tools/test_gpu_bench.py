"""The benchmark for a GPU runs, at toy sizes on any device."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

SCRIPT = Path(__file__).resolve().parents[2] / "bench" / "bench_gpu.py"


def run(*options: str) -> subprocess.CompletedProcess[str]:
    environ = {**os.environ, "CUDA_VISIBLE_DEVICES": ""}
    environ.pop("TRITON_INTERPRET", None)
    return subprocess.run(
        [sys.executable, str(SCRIPT), *options],
        capture_output=True,
        text=True,
        timeout=600,
        env=environ,
    )


@pytest.mark.slow
def test_every_part_runs_and_is_in_the_table(tmp_path: Path) -> None:
    done = run("--tiny", "--out", str(tmp_path / "gpu.md"))
    assert done.returncode == 0, done.stderr[-2000:]
    table = (tmp_path / "gpu.md").read_text("utf-8")
    assert table in done.stdout and table.startswith(f"CPU, torch {torch.__version__}")
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
    assert "FAIL" not in done.stdout


@pytest.mark.slow
def test_without_a_gpu_nothing_is_measured() -> None:
    done = run()
    assert done.returncode == 2 and "no CUDA GPU was found" in done.stderr
    assert "tokens/s" not in done.stdout
