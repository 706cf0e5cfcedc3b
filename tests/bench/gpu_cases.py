"""Models, batches, timing and the report of `bench_gpu.py`."""

from __future__ import annotations

import copy
import gc
import statistics
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from importlib.util import find_spec
from typing import Any

import torch
from torch import Tensor

from kdharness.trainers.attention_hook import install_attention_hook, skip_masks
from kdharness.trainers.data.layout import layout_of
from kdharness.trainers.kernels import Kernels, interpreted, kernels_named
from kdharness.trainers.step import attach_loss
from kdharness.trainers.tools.selfcheck import Models, random_batch, tiny_model

CPU = torch.device("cpu")
TOY: dict[str, Any] = {"vocab_size": 512, "num_hidden_layers": 2}


@dataclass
class Report:
    """What was found: rows of the table, and whether every check held."""

    device: torch.device
    tiny: bool
    checks: list[tuple[str, float, float]] = field(default_factory=list)
    rows: list[tuple[str, str, str, str]] = field(default_factory=list)

    def check(self, name: str, error: float, limit: float) -> None:
        """Record an error and its limit."""
        self.checks.append((name, error, limit))
        print(f"{'ok  ' if error <= limit else 'FAIL'} {name}: {error:.1e} (limit {limit:.1e})")

    def row(self, work: str, ours: str, other: str = "", wanted: str = "") -> None:
        """Record a measured row."""
        self.rows.append((work, ours, other, wanted))
        print(f"     {work}: {ours}{f', {other}' if other else ''}")

    @property
    def failed(self) -> list[str]:
        """The checks that did not hold."""
        return [name for name, error, limit in self.checks if not error <= limit]

    def markdown(self, minutes: float) -> str:
        """Return both tables."""
        card = torch.cuda.get_device_name(self.device) if self.device.type == "cuda" else "CPU"
        lines = [f"{card}, torch {torch.__version__}, {minutes:.1f} minutes", ""]
        lines += ["| compared with the CPU | relative error | limit |", "|---|---|---|"]
        lines += [f"| {name} | {error:.1e} | {limit:.0e} |" for name, error, limit in self.checks]
        lines += ["", "| work | measured | compared with | wanted |", "|---|---|---|---|"]
        return "\n".join(lines + [f"| {' | '.join(row)} |" for row in self.rows]) + "\n"


# ---------------------------------------------------------------- measuring


def wait(device: torch.device) -> None:
    """Wait until the device has done what was launched."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def seconds(work: Callable[[], object], device: torch.device, repeats: int = 5) -> float:
    """Return the median time of a call, after a warm-up."""
    work()
    times = []
    for _ in range(repeats):
        wait(device)
        began = time.perf_counter()
        work()
        wait(device)
        times.append(time.perf_counter() - began)
    return statistics.median(times)


@contextmanager
def fresh_memory(device: torch.device) -> Iterator[None]:
    """Free what is left of the last case."""
    gc.collect()
    if device.type == "cuda":
        torch.cuda.empty_cache()
        torch.cuda.reset_peak_memory_stats(device)
    yield
    gc.collect()


def distance(got: Tensor, want: Tensor) -> float:
    """Return the relative distance of two tensors on any devices."""
    want = want.detach().double().cpu()
    return float((got.detach().double().cpu() - want).norm() / want.norm().clamp(min=1e-30))


def kernels_here(device: torch.device) -> list[Kernels]:
    """Return the reference, and Triton's kernels where they can run."""
    able = find_spec("triton") is not None and (device.type == "cuda" or interpreted())
    return [kernels_named("reference"), *([kernels_named("triton")] if able else [])]


def adapted(model: Any) -> Any:
    """Return a model with an adapter whose effect is not zero."""
    from peft import LoraConfig, get_peft_model

    torch.manual_seed(5)
    config = LoraConfig(
        r=8, target_modules="all-linear", task_type="CAUSAL_LM", init_lora_weights=False
    )
    return get_peft_model(model, config)


def case_of(
    shape: Mapping[str, Any],
    method: str,
    rows: int,
    width: int,
    device: torch.device,
    kernels: Kernels,
    *,
    lora: bool = False,
    teacher_dtype: torch.dtype = torch.float32,
    checkpointing: bool = False,
) -> Models:
    """Return random models and a batch for one method."""
    count = {"sft": 0, "kd": 1}.get(method, 2)
    student = tiny_model(1, **shape).to(device)
    if method == "dae":
        first = copy.deepcopy(student).requires_grad_(False).to(teacher_dtype)
        teachers = [first, tiny_model(2, **shape).to(device, teacher_dtype)]
    else:
        teachers = [tiny_model(2, **shape).to(device, teacher_dtype) for _ in range(count)]
    layers = {n: n for n in range(shape["num_hidden_layers"])} if method == "kd" else {}
    for model in (student, *teachers):
        if layers:
            install_attention_hook(model)
        skip_masks(model)
    if checkpointing:
        student.gradient_checkpointing_enable({"use_reentrant": False})
    wrapped = adapted(student) if lora else student
    attach_loss(wrapped)
    batch: dict[str, Any] = random_batch(shape["vocab_size"], rows, width)
    batch["layout"] = layout_of(batch)
    moved = {name: value.to(device) for name, value in batch.items()}
    return Models(wrapped, teachers, moved, layers, kernels)
