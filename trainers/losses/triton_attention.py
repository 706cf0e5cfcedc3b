"""The attention loss in Triton: the same values as `losses.attention`, in three launches a layer.

Labelled rows arrive as flat indices with counts per position, and grids depend on shapes alone:
nothing waits for the device. With different head counts the slopes of head-averaged rows are kept
for some rows at a time.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch
import triton
from torch import Tensor

from kdharness.harness.errors import ModelError
from kdharness.trainers.losses.attention import AttentionTape, Rows
from kdharness.trainers.losses.triton_backward import (
    key_gradient,
    mean_key_gradient,
    mean_query_gradient,
    query_gradient,
)
from kdharness.trainers.losses.triton_forward import row_kl, row_lse, row_means
from kdharness.trainers.losses.triton_tiles import Shape, Tiling

SLOPE_BYTES = 1 << 27
"""Memory for the slopes of head-averaged rows."""
DTYPES = (torch.float32, torch.bfloat16, torch.float16)


class _Pair:
    """The arguments that all kernels of one layer pair share."""

    def __init__(self, student: Rows, teacher: Rows, tape: AttentionTape) -> None:
        self.ours, self.theirs = _shape(student), _shape(teacher)
        self.student, self.teacher = _side(student), _side(teacher)
        samples, heads, length, _ = student.q.shape
        positions, counts = tape.flat
        self.samples, self.length, self.capacity = samples, length, positions.numel()
        self.heads, self.teacher_heads = heads, teacher.q.shape[1]
        keys = tape.keys.contiguous().view(torch.uint8)
        self.rows = (keys, positions, counts, length, self.capacity)
        m, n = tile_size(max(self.ours.wide, self.theirs.wide), student.q.dtype)
        windows = [window for window in (student.window, teacher.window) if window]
        interpreted = triton.knobs.runtime.interpret
        self.tiling = Tiling(m, n, min(windows, default=0), interpreted)
        self.row_tiles, self.key_tiles = triton.cdiv(length, m), triton.cdiv(length, n)
        self.device = student.q.device

    @property
    def averaged(self) -> bool:
        """Whether head-averaged rows are compared."""
        return self.heads != self.teacher_heads

    def per_row(self, count: int) -> Tensor:
        """Return fp32 memory for a number per labelled row, `count` times."""
        return torch.empty(count, self.capacity, dtype=torch.float32, device=self.device)

    def slabs(self) -> Iterator[tuple[int, int, Tensor]]:
        """Yield (first tile of rows, number of tiles, memory for their slopes)."""
        tile_bytes = 4 * self.samples * self.tiling.rows * self.length
        count = min(max(SLOPE_BYTES // tile_bytes, 1), self.row_tiles)
        shape = (self.samples, count * self.tiling.rows, self.length)
        slopes = torch.empty(shape, dtype=torch.float32, device=self.device)
        for first in range(0, self.row_tiles, count):
            yield first, count, slopes


def tile_size(wide: int, dtype: torch.dtype) -> tuple[int, int]:
    """Return (rows, keys) of a tile for a padded head size; not tuned on any device."""
    rows, keys = {16: (64, 64), 32: (64, 64), 64: (64, 64), 128: (64, 32), 256: (32, 32)}.get(
        wide, (16, 16)
    )
    return (max(rows // 2, 16), max(keys // 2, 16)) if dtype == torch.float32 else (rows, keys)


def fp32_precision() -> str:
    """Return how products of fp32 numbers are computed, by the same switch as torch's own.

    Three TF32 products come close to an fp32 one, and use the units that an fp32 one cannot.
    """
    if torch.version.hip is not None:
        return "ieee"
    return "tf32x3" if torch.get_float32_matmul_precision() == "highest" else "tf32"


def _shape(side: Rows) -> Shape:
    if side.q.dtype not in DTYPES or side.q.dtype != side.k.dtype:
        raise ModelError(
            f"trainer.kernels: triton does not support queries in {side.q.dtype} with keys in "
            f"{side.k.dtype}",
            hint="set trainer.kernels: reference",
        )
    heads, size = side.q.shape[1], side.q.shape[-1]
    wide = max(triton.next_power_of_2(size), 16)
    return Shape(heads // side.k.shape[1], size, wide, float(side.softcap), fp32_precision())


def _side(side: Rows) -> tuple[Tensor | float | int, ...]:
    q, k = _dense(side.q), _dense(side.k)
    return q, k, side.scale, *q.stride()[:3], *k.stride()[:3]


def _dense(tensor: Tensor) -> Tensor:
    """Return a tensor whose last axis has no gaps."""
    return tensor if tensor.stride(-1) == 1 else tensor.contiguous()


class _FlashKL(torch.autograd.Function):
    """KL of labelled attention rows, summed over heads and rows, from queries and keys."""

    @staticmethod
    def forward(
        ctx: Any, q: Tensor, k: Tensor, student: Rows, teacher: Rows, tape: AttentionTape, dry: bool
    ) -> Tensor:
        # Activation checkpointing drops and recomputes saved tensors: the layer runs again, dry,
        # and saves the same ones. What only this pass computes is kept beside them.
        ctx.save_for_backward(q, k)
        ctx.settings = student.scale, student.window, student.softcap
        if dry:
            return torch.zeros((), dtype=torch.float32, device=q.device)
        ctx.teacher, ctx.tape = teacher, tape
        pair = _Pair(student, teacher, tape)
        with torch.cuda.device_of(q):
            total, ctx.lse = _averaged_kl(pair) if pair.averaged else _kl(pair)
        return total

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, grad_output: Tensor) -> tuple[Tensor | None, ...]:
        q, k = ctx.saved_tensors
        pair = _Pair(Rows(q, k, *ctx.settings), ctx.teacher, ctx.tape)
        output, lse = grad_output.float().reshape(1), ctx.lse
        # The graph may outlive its backward pass; what it refers to should not.
        del ctx.teacher, ctx.tape, ctx.lse
        # Rows that are not labelled have no gradient.
        grad_q = torch.zeros_like(q, memory_format=torch.contiguous_format)
        with torch.cuda.device_of(q):
            if pair.averaged:
                grad_k = _averaged_gradients(pair, lse, output, grad_q, k)
            else:
                grad_k = _gradients(pair, lse, output, grad_q, k)
        return grad_q, grad_k, None, None, None, None


Lse = tuple[Tensor, Tensor]


def _kl(pair: _Pair) -> tuple[Tensor, Lse]:
    lse = pair.per_row(pair.heads), pair.per_row(pair.heads)
    kl = torch.zeros_like(lse[0])
    row_kl[(pair.row_tiles, pair.heads, pair.samples)](
        pair.student, pair.teacher, pair.rows, kl, *lse, pair.ours, pair.theirs, pair.tiling
    )
    return kl.sum(), lse


def _gradients(pair: _Pair, lse: Lse, output: Tensor, grad_q: Tensor, k: Tensor) -> Tensor:
    """Fill the queries' gradient; return that of the keys."""
    common = pair.student, pair.teacher, pair.rows, *lse, output
    kinds = pair.ours, pair.theirs, pair.tiling
    query_gradient[(pair.row_tiles, pair.heads, pair.samples)](
        *common, (grad_q, *grad_q.stride()[:3]), *kinds
    )
    grad_k = torch.empty_like(k, memory_format=torch.contiguous_format)
    key_gradient[(pair.key_tiles, k.shape[1], pair.samples)](
        *common, (grad_k, *grad_k.stride()[:3]), pair.ours.group, *kinds
    )
    return grad_k


def _averaged_kl(pair: _Pair) -> tuple[Tensor, Lse]:
    lse = pair.per_row(pair.heads), pair.per_row(pair.teacher_heads)
    for side, shape, into in zip(
        (pair.student, pair.teacher), (pair.ours, pair.theirs), lse, strict=True
    ):
        grid = pair.row_tiles, into.shape[0], pair.samples
        row_lse[grid](side, pair.rows, into, shape, pair.tiling)
    kl = torch.zeros(pair.key_tiles, pair.capacity, dtype=torch.float32, device=pair.device)
    _means(pair, lse, kl, kl, 0, pair.row_tiles, slopes=False)
    return kl.sum(), lse


def _means(
    pair: _Pair, lse: Lse, kl: Tensor, into: Tensor, first: int, tiles: int, *, slopes: bool
) -> None:
    row_means[(tiles, pair.key_tiles, pair.samples)](
        pair.student,
        pair.teacher,
        pair.rows,
        *lse,
        pair.heads,
        pair.teacher_heads,
        kl,
        into,
        first,
        pair.ours,
        pair.theirs,
        pair.tiling,
        slopes,
    )


def _averaged_gradients(pair: _Pair, lse: Lse, output: Tensor, grad_q: Tensor, k: Tensor) -> Tensor:
    """Fill the queries' gradient; return that of the keys."""
    centres = pair.per_row(pair.heads)
    grad_k = torch.zeros(k.shape, dtype=torch.float32, device=k.device)
    into_q, into_k = (grad_q, *grad_q.stride()[:3]), (grad_k, *grad_k.stride()[:3])
    for first, tiles, slopes in pair.slabs():
        _means(pair, lse, slopes, slopes, first, tiles, slopes=True)
        common = pair.student, pair.rows, lse[0], slopes, centres, output
        mean_query_gradient[(tiles, pair.heads, pair.samples)](
            *common, into_q, first, pair.ours, pair.tiling
        )
        mean_key_gradient[(pair.key_tiles, k.shape[1], pair.samples)](
            *common, into_k, pair.ours.group, first, tiles, pair.ours, pair.tiling
        )
    return grad_k.to(k.dtype)


def attention_kl(student: Rows, teacher: Rows, tape: AttentionTape, *, dry: bool = False) -> Tensor:
    """Return the summed KL of one layer pair, as `losses.attention.attention_kl` does.

    Raises:
        ModelError: queries and keys in a number format that the kernels do not know.
    """
    result: Tensor = _FlashKL.apply(student.q, student.k, student, teacher, tape, dry)  # type: ignore[no-untyped-call]
    return result
