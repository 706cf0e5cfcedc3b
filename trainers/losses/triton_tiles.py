"""Device functions that the attention kernels share: loads, scores and masks of a tile.

A program compares M labelled rows of one sample and one head with N keys at a time. Arguments
come in groups:

    side    a model: (queries, keys, scale, strides of queries, strides of keys), where strides are
            by sample, head and position
    shape   what is fixed for a side at compile time: `Shape`
    rows    the labelled rows: (real keys [B, T], positions [R], counts [B · T + 1], T, R), where
            counts[b · T + t] is the number of labelled rows before position t of sample b
    tiling  `Tiling`
"""

from __future__ import annotations

from typing import NamedTuple

import triton
import triton.language as tl


class Shape(NamedTuple):
    """One model's attention: query heads per key head, head size, soft-cap, kind of product.

    `wide` is the head size padded to a power of two, with zeros that add nothing to a product.
    """

    group: int
    size: int
    wide: int
    cap: float
    precision: str


class Tiling(NamedTuple):
    """Rows and keys of a tile, the window that both models attend within, and the interpreter."""

    rows: int
    keys: int
    window: int
    interpreted: bool


@triton.jit
def tanh(x):
    """Return tanh x to fp32 accuracy: a continued fraction near 0, where 1 − 2 / (…) cancels."""
    s = x * x
    near = x * (10395 + s * (1260 + s * 21)) / (10395 + s * (4725 + s * (210 + s)))
    far = 1 - 2 / (tl.exp(2 * tl.abs(x)) + 1)
    return tl.where(tl.abs(x) < 1, near, tl.where(x < 0, -far, far))


@triton.jit
def load_rows(base, stride, positions, inside, shape: tl.constexpr):
    """Return the vectors at some positions [rows, wide]; zeros where not `inside`."""
    d = tl.arange(0, shape.wide)
    offsets = positions[:, None].to(tl.int64) * stride + d[None, :]
    return tl.load(base + offsets, mask=inside[:, None] & (d[None, :] < shape.size), other=0.0)


@triton.jit
def store_rows(base, stride, positions, inside, values, shape: tl.constexpr, tiling: tl.constexpr):
    """Write vectors to some positions, in the target's dtype."""
    d = tl.arange(0, shape.wide)
    offsets = positions[:, None].to(tl.int64) * stride + d[None, :]
    kept = inside[:, None] & (d[None, :] < shape.size)
    tl.store(base + offsets, narrow(values, base.dtype.element_ty, tiling.interpreted), mask=kept)


@triton.jit
def narrow(x, dtype: tl.constexpr, interpreted: tl.constexpr):
    """Return fp32 values in another dtype, rounded to nearest."""
    if interpreted and dtype == tl.bfloat16:
        # The interpreter would cut the lower bits off.
        bits = x.to(tl.uint32, bitcast=True)
        bits = (bits + 0x7FFF + ((bits >> 16) & 1)) >> 16
        return bits.to(tl.uint16).to(tl.bfloat16, bitcast=True)
    else:
        return x.to(dtype)


@triton.jit
def load_queries(side, sample, head, positions, inside, shape: tl.constexpr):
    """Return a tile of a head's queries. `sample` is 64 bits wide, and offsets with it."""
    base = side[0] + sample * side[3] + (head + 0 * sample) * side[4]
    return load_rows(base, side[5], positions, inside, shape)


@triton.jit
def load_keys(side, sample, head, positions, inside, shape: tl.constexpr):
    """Return a tile of the keys that a (query) head attends to."""
    base = side[1] + sample * side[6] + (head // shape.group + 0 * sample) * side[7]
    return load_rows(base, side[8], positions, inside, shape)


@triton.jit
def product(a, b, precision: tl.constexpr, interpreted: tl.constexpr):
    """Return a @ b in b's dtype, accumulated in fp32."""
    a = narrow(a, b.dtype, interpreted) if a.dtype != b.dtype else a
    if interpreted:
        # The interpreter has no bf16 products; those of two bf16 numbers are exact in fp32.
        return tl.dot(a.to(tl.float32), b.to(tl.float32), input_precision="ieee")
    else:
        return tl.dot(a, b, input_precision=precision)


@triton.jit
def scores(q, k, scale, shape: tl.constexpr, tiling: tl.constexpr):
    """Return fp32 scores [M, N], soft-capped; nothing is rounded to bf16 on the way."""
    s = product(q, tl.trans(k), shape.precision, tiling.interpreted) * scale
    if shape.cap > 0:
        s = shape.cap * tanh(s / shape.cap)
    return s


@triton.jit
def tile_of_rows(rows, sample, tile, tiling: tl.constexpr):
    """Return the indices, positions and validity of a sample's tile of labelled rows."""
    counts = rows[2] + sample * rows[3]
    index = tl.load(counts) + tile * tiling.rows + tl.arange(0, tiling.rows)
    inside = index < tl.load(counts + rows[3])
    return index, tl.load(rows[1] + index, mask=inside, other=0), inside


@triton.jit
def real_keys(rows, sample, keys):
    """Return which of some keys exist and are no padding."""
    return tl.load(rows[0] + sample * rows[3] + keys, mask=keys < rows[3], other=0) != 0


@triton.jit
def visible(positions, inside, keys, real, tiling: tl.constexpr):
    """Return which keys each row attends to in both models [M, N]."""
    see = inside[:, None] & real[None, :] & (keys[None, :] <= positions[:, None])
    if tiling.window > 0:
        see = see & (keys[None, :] > positions[:, None] - tiling.window)
    return see


@triton.jit
def key_range(positions, inside, length, tiling: tl.constexpr):
    """Return the range of keys that a tile of rows attends to, beginning at a tile of keys."""
    last = tl.max(tl.where(inside, positions + 1, 0), 0)
    first = last * 0
    if tiling.window > 0:
        lowest = tl.min(tl.where(inside, positions, length), 0)
        first = tl.maximum(lowest - tiling.window + 1, 0) // tiling.keys * tiling.keys
    return first, last


@triton.jit
def shifted(maximum):
    """Return a running maximum that can be subtracted: 0 before the first visible key."""
    return tl.where(maximum == -float("inf"), 0.0, maximum)
