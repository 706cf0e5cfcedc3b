"""Counting instead of timing: live bytes and floating-point operations of a function."""

from __future__ import annotations

import gc
import time
from collections.abc import Callable, Iterable, Iterator

import torch
from torch.multiprocessing.reductions import StorageWeakRef
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.flop_counter import FlopCounterMode


class LiveBytes(TorchDispatchMode):
    """Peak bytes of tensors allocated and not yet freed while the mode is active.

    Storages are counted once however many views they have; those that existed before are not
    counted. They are tracked through torch's own weak references: a Python finalizer on a storage
    object does not fire for one that was also accessed through a view.
    """

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.live = self.peak = 0
        self._known: dict[int, tuple[StorageWeakRef, int]] = {}

    def __torch_dispatch__(
        self,
        func: Callable[..., object],
        types: object,
        args: tuple[object, ...] = (),
        kwargs: dict[str, object] | None = None,
    ) -> object:
        """Run the operation and count the storages it made."""
        kwargs = kwargs or {}
        given = {storage._cdata for storage in _storages((*args, *kwargs.values()))}
        out = func(*args, **kwargs)
        for storage in _storages((out,)):
            # A view of an existing storage (a transposed weight) is not a new allocation.
            if storage._cdata not in given:
                self._count(storage)
        return out

    def _count(self, storage: torch.UntypedStorage) -> None:
        key = storage._cdata
        if key in self._known:
            return
        size = storage.nbytes()
        self._known[key] = (StorageWeakRef(storage), size)
        self.live += size
        if self.live > self.peak:
            # Freed storages are collected only where it matters: at a new peak.
            self._sweep()
            self.peak = max(self.peak, self.live)

    def _sweep(self) -> None:
        for key in [key for key, (ref, _) in self._known.items() if ref.expired()]:
            self.live -= self._known.pop(key)[1]


def _storages(values: Iterable[object]) -> Iterator[torch.UntypedStorage]:
    """Yield the storages of tensors, also of those in the lists that an operation takes or returns.

    torch's own iteration over nested containers takes longer than most operations.
    """
    for value in values:
        if isinstance(value, torch.Tensor):
            if value.device.type != "meta":
                yield value.untyped_storage()
        elif isinstance(value, list | tuple):
            yield from _storages(value)


def _sdpa_flops(query: torch.Size, key: torch.Size, *args: object, **kwargs: object) -> int:
    """Count both products of attention over full rows: 2 · 2 · B · H · T · S · d."""
    batch, heads, rows, size = query
    return 4 * batch * heads * rows * key[2] * size


def _sdpa_backward_flops(
    grad: torch.Size, query: torch.Size, key: torch.Size, *args: object, **kwargs: object
) -> int:
    """Count the scores again and four products: 2.5 times the forward pass."""
    return _sdpa_flops(query, key) * 5 // 2


def _addmm_flops(
    total: torch.Size, left: torch.Size, right: torch.Size, *args: object, **kwargs: object
) -> int:
    """Count an in-place matrix product: 2 · m · k · n."""
    return 2 * left[0] * left[1] * right[1]


def count_flops(work: Callable[[], object]) -> int:
    """Return the floating-point operations of `work`.

    torch's counter ignores the CPU's fused attention and in-place products; they are added here.
    """
    aten = torch.ops.aten
    mapping = {
        aten._scaled_dot_product_flash_attention_for_cpu: _sdpa_flops,
        aten._scaled_dot_product_flash_attention_for_cpu_backward: _sdpa_backward_flops,
        aten.addmm_: _addmm_flops,
    }
    counter = FlopCounterMode(display=False, custom_mapping=mapping)
    with counter:
        work()
    return int(counter.get_total_flops())


def peak_bytes(work: Callable[[], object]) -> int:
    """Return the peak live bytes of tensors that `work` allocates."""
    gc.collect()
    with LiveBytes() as counter:
        work()
    return int(counter.peak)


def seconds(work: Callable[[], object], repeats: int = 3) -> float:
    """Return the shortest time of a few runs, after one warm-up."""
    work()
    best = float("inf")
    for _ in range(repeats):
        began = time.perf_counter()
        work()
        best = min(best, time.perf_counter() - began)
    return best
