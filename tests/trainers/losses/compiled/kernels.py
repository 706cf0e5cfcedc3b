"""Triton compiles every kernel for a GPU, as it would be launched: no GPU is needed for that.

`test_kernels.py` runs this file in a process of its own, where the launch of a kernel is replaced
by its compilation, for real arguments, down to machine code of compute capability 9.0.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
import torch
from triton.backends.compiler import GPUTarget
from triton.runtime import driver
from triton.runtime.jit import JITFunction

from kdharness.harness.models.lm_head import Head
from kdharness.trainers.losses import triton_attention as kernels
from kdharness.trainers.losses.attention import AttentionTape, Rows
from kdharness.trainers.losses.fused import Mix, fused_loss
from kdharness.trainers.losses.triton_attention import attention_kl
from kdharness.trainers.losses.triton_head import chunk_loss

SHARED_MEMORY = 227 * 1024
"""Bytes that a program has on a GPU of compute capability 9.0."""


class Hopper:
    """A driver of a GPU that is not there."""

    def get_current_target(self) -> GPUTarget:
        return GPUTarget("cuda", 90, 32)

    def get_current_device(self) -> int:
        return 0

    def get_current_stream(self, device: int) -> int:
        return 0


@pytest.fixture
def compiled(monkeypatch: pytest.MonkeyPatch, tmp_path: Any) -> Iterator[dict[str, int]]:
    """Compile kernels in place of launching them; return name -> shared memory in bytes."""
    made: dict[str, int] = {}
    run = JITFunction.run

    def compile_only(self: Any, *args: Any, grid: Any, warmup: bool, **options: Any) -> Any:
        kernel = run(self, *args, grid=grid, warmup=True, **options)
        assert kernel.asm["cubin"]
        made[self.__name__] = kernel.metadata.shared
        return kernel

    monkeypatch.setenv("TRITON_CACHE_DIR", str(tmp_path))
    monkeypatch.setattr(JITFunction, "run", compile_only)
    driver.set_active(Hopper())
    yield made
    assert all(size <= SHARED_MEMORY for size in made.values())


@pytest.mark.parametrize("teacher_heads", [4, 6])
def test_attention_kernels(
    teacher_heads: int, compiled: dict[str, int], monkeypatch: pytest.MonkeyPatch
) -> None:
    if teacher_heads == 6:  # small tiles compile faster
        monkeypatch.setattr(kernels, "tile_size", lambda wide, dtype: (16, 16))
    q, qt = (torch.randn(2, heads, 40, 16).bfloat16() for heads in (4, teacher_heads))
    k, kt = (torch.randn(2, 2, 40, 16).bfloat16() for _ in range(2))
    every = torch.ones(2, 40, dtype=torch.bool)
    student = Rows(q.requires_grad_(), k.requires_grad_(), 0.25)
    tape = AttentionTape({0: 0}, [torch.arange(40)] * 2, every)
    attention_kl(student, Rows(qt, kt, 0.25, window=7, softcap=30.0), tape).backward()
    averaged = {"row_lse", "row_means", "mean_query_gradient", "mean_key_gradient"}
    same = {"row_kl", "query_gradient", "key_gradient"}
    assert set(compiled) == (same if teacher_heads == 4 else averaged)


@pytest.mark.parametrize("kind", ["forward_kl", "js"])
def test_chunk_kernel(kind: str, compiled: dict[str, int]) -> None:
    hidden, weight = (torch.randn(n, 8).bfloat16() for n in (10, 300))
    fused_loss(
        hidden.requires_grad_(),
        Head(weight, softcap=30.0),
        mix=Mix(1.5, kind, ce_weight=0.5),
        teacher=(Head(weight), hidden.detach()),
        targets=torch.zeros(10, dtype=torch.long),
        inner=chunk_loss,
    )
    assert set(compiled) == {"row_loss"}
