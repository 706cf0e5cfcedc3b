"""What a worker sets on a CPU, with and without: memory, barriers, threads, precision.

    make bench   or   python tests/bench/bench_cpu.py

A step is forward, backward and AdamW of a model of SmolLM2-135M's size with random weights, 384
tokens, fp32 but in the row `mixed`, which is for a CPU with AMX. Each row is a process of its own,
alone or beside a second one like it, and the rows are measured in turn, so that each sees the same
load.
"""

from __future__ import annotations

import os
import statistics
import subprocess
import sys
from pathlib import Path

STEPS, TURNS = 4, 2
ROWS: dict[str, dict[str, str]] = {
    "as a worker": {},
    # It changes nothing, but a worker leaves alone what was tuned.
    "freed memory goes back": {"GLIBC_TUNABLES": "glibc.malloc.perturb=0"},
    "threads spin at barriers": {"OMP_WAIT_POLICY": "active"},
    "one thread": {"OMP_NUM_THREADS": "1"},
    "mixed": {"BENCH_PRECISION": "mixed"},
}


def measure() -> None:
    """Print seconds and page faults of a step, and the peak of memory in MB."""
    from kdharness.harness.util.process import (
        keep_freed_memory,
        quiet_torchao,
        set_passive_omp_wait,
    )

    quiet_torchao()
    set_passive_omp_wait()
    keep_freed_memory(0)
    import resource
    import time

    import torch
    from bench.bench_trainers import SMOL

    from kdharness.harness.config.precision import precision_of
    from kdharness.trainers.precision import autocast
    from kdharness.trainers.tools.selfcheck import tiny_model

    name = os.environ.get("BENCH_PRECISION", "fp32")
    precision = precision_of(name, "auto", lora=False, has_bf16=False)
    model = tiny_model(1, **SMOL)
    optimizer = torch.optim.AdamW(model.parameters(), 1e-5)
    tokens = torch.randint(0, SMOL["vocab_size"], (2, 192))

    def step() -> None:
        with autocast(precision, "cpu"):
            loss = model(input_ids=tokens, labels=tokens).loss
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()

    step()
    before, start = resource.getrusage(resource.RUSAGE_SELF), time.perf_counter()
    for _ in range(STEPS):
        step()
    seconds, after = time.perf_counter() - start, resource.getrusage(resource.RUSAGE_SELF)
    faults = (after.ru_minflt - before.ru_minflt) / STEPS
    print(seconds / STEPS, faults, after.ru_maxrss / 1000)


def start(settings: dict[str, str]) -> subprocess.Popen[str]:
    """Start a process that measures with these variables."""
    clean = {k: v for k, v in os.environ.items() if k != "OMP_WAIT_POLICY"}
    tests = str(Path(__file__).parent.parent)
    return subprocess.Popen(
        [sys.executable, __file__, "--measure"],
        env={**clean, "PYTHONPATH": tests, "OMP_NUM_THREADS": "2", **settings},
        stdout=subprocess.PIPE,
        text=True,
    )


def main() -> None:
    """Measure each row in turn, alone and beside another, and print the means."""
    found: dict[tuple[str, int], list[list[float]]] = {}
    for _ in range(TURNS):
        for count in (1, 2):
            for name, settings in ROWS.items():
                for process in [start(settings) for _ in range(count)]:
                    output = process.communicate()[0]
                    found.setdefault((name, count), []).append([float(x) for x in output.split()])
    for (name, count), rows in found.items():
        seconds, faults, memory = (statistics.mean(column) for column in zip(*rows, strict=True))
        beside = "alone" if count == 1 else "two at once"
        print(f"{name:28}{beside:12}{seconds:6.2f} s{faults:10,.0f} faults{memory:8,.0f} MB")


if __name__ == "__main__":
    measure() if "--measure" in sys.argv else main()
