"""Launches and bytes of the losses, of the reference and of the kernels.

Run it: `python tests/bench/bench_kernels.py`.

The reference's are counted: every torch operation of one layer's attention loss, forward and
backward, with the bytes of its arguments and results. The kernels' follow from their grids. From
both a time is modelled, with the constants below. Nothing is measured on a GPU.
"""

from __future__ import annotations

import argparse
import math
from typing import Any

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from kdharness.harness.models.lm_head import Head, apply_head
from kdharness.trainers.losses.attention import AttentionTape, Rows, attention_kl
from kdharness.trainers.losses.fused import Mix, chunk_loss

LAUNCH, BANDWIDTH, FLOPS = 5e-6, 3e12, 6e14
"""Seconds of a launch, bytes per second, operations per second (bf16, dense)."""
FREE = ("empty", "empty_like", "new_empty", "detach", "_unsafe_view", "empty_strided")
WAITS = ("_local_scalar_dense", "nonzero")


class Traffic(TorchDispatchMode):
    """Counts operations that a GPU would launch, their bytes, and reads by the host."""

    def __init__(self, groups: int = 1) -> None:
        super().__init__()
        self.groups = groups  # stands for so many key heads, which masks have not
        self.launches = self.bytes = self.waits = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        out = func(*args, **(kwargs or {}))
        name = func.overloadpacket.__name__
        returns = func._schema.returns
        view = any(r.alias_info is not None and not r.alias_info.is_write for r in returns)
        self.waits += name in WAITS
        if not view and name not in FREE:
            self.launches += 1
            moved = tree_leaves((args, kwargs or {}, out))
            self.bytes += sum(
                value.nbytes * (self.groups if value.dim() > 2 else 1)
                for value in moved
                if isinstance(value, Tensor)
            )
        return out


def seconds(launches: int, moved: float, operations: float) -> float:
    """Return the modelled time: launches, plus the slower of memory and arithmetic."""
    return launches * LAUNCH + max(moved / BANDWIDTH, operations / FLOPS)


def reference_attention(samples: int, length: int, heads: int, groups: int, size: int) -> Traffic:
    """Count one layer, with the second half of each row labelled; one key head represents all."""
    per_group = heads // groups
    q, qt = (torch.randn(samples, per_group, length, size) for _ in range(2))
    k, kt = (torch.randn(samples, 1, length, size) for _ in range(2))
    rows = [torch.arange(length // 2, length)] * samples
    tape = AttentionTape({0: 0}, rows, torch.ones(samples, length, dtype=torch.bool))
    with Traffic(groups) as counted:
        student = Rows(q.requires_grad_(), k.requires_grad_(), 0.1)
        attention_kl(student, Rows(qt, kt, 0.1), tape).backward()
    return counted


def kernel_attention(
    samples: int, length: int, heads: int, groups: int, size: int, tile: tuple[int, int]
) -> tuple[int, float, float]:
    """Return (launches, bytes, operations) of the three kernels with bf16 queries and keys."""
    m, n = tile
    row = 2 * size  # bytes of a vector
    first = length // 2
    forward = backward = pairs = 0.0
    for start in range(first, length, m):
        rows, keys = min(m, length - start), math.ceil(min(start + m, length) / n) * n
        forward += 2 * row * (rows + keys) + 12 * rows
        pairs += rows * keys
        backward += 2 * row * (rows + keys) + row * rows + 8 * rows
    keyed = 0.0
    for block in range(0, length, n):
        rows = length - max(first, block)
        keyed += 2 * row * n + heads // groups * (row * n + (2 * row + 8) * rows)
    # Scores of two models in each kernel, and one more product in each backward kernel.
    operations = samples * heads * pairs * 2 * size * (2 + 3 + 3)
    moved = samples * (heads * (forward + backward) + groups * keyed)
    # Beside the kernels: zeros for rows and for queries that are not labelled, and a sum.
    return 3 + 3, moved, operations


def reference_head(vocab: int, rows: int, kind: str) -> tuple[int, float]:
    """Return (launches, bytes) of a chunk's inner part, without the products."""
    head, states = Head(torch.randn(vocab, 1)), torch.randn(rows, 1)
    logits = apply_head(head, states)
    with Traffic() as product:
        apply_head(head, states)
    with Traffic() as counted:
        chunk_loss(logits, head, (head, states), None, slice(0, rows), Mix(divergence=kind))
    return counted.launches - product.launches, counted.bytes - product.bytes


def main() -> None:
    """Print both tables."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--samples", type=int, default=8)
    parser.add_argument("--length", type=int, default=2048)
    args = parser.parse_args()
    shape = (args.samples, args.length, 32, 8, 128)
    loop = reference_attention(*shape)
    launches, moved, operations = kernel_attention(*shape, tile=(64, 32))
    print("attention KL of one layer, forward and backward:")
    print(f"  shape {shape} (samples, length, heads, key heads, head size), half labelled")
    # The loop recomputes the scores once and has two more products.
    done = operations / 8 * 6
    for name, row in (
        ("reference", (loop.launches, loop.waits, loop.bytes, done)),
        ("triton", (launches, 0, moved, operations)),
    ):
        model = 1e3 * seconds(row[0], row[2], row[3])
        print(
            f"  {name:<10} {row[0]:>6} launches {row[1]:>5} waits {row[2] / 1e9:>8.1f} GB", end=""
        )
        print(f"  modelled {model:.2f} ms")
    print("head, inner part of a chunk, bytes per logit of the student:")
    for kind in ("forward_kl", "reverse_kl", "js"):
        count, bytes_moved = reference_head(4096, 64, kind)
        sweeps = 2 if kind == "forward_kl" else 3
        ours = 4 * 2 * sweeps + 4
        print(f"  {kind:<10} reference {count} launches, {bytes_moved / 4096 / 64:.0f}", end="")
        print(f"; triton 1 launch, {ours}")


if __name__ == "__main__":
    main()
