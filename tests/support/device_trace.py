"""Steps on the `meta` device: tensors without values, which no code can read.

Whatever would make the host wait for a GPU (`.item()`, `.tolist()`, `bool(tensor)`, `nonzero`, a
boolean index, a copy to the CPU) needs a value and raises an error here.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from typing import Any

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode

RELABELLING = ("aten.detach", "aten.empty", "aten._unsafe_view", "aten.new_empty")


class Launches(TorchDispatchMode):
    """Counts operations that a GPU would run as kernels: not views and allocations."""

    def __init__(self) -> None:
        super().__init__()
        self.counts: Counter[str] = Counter()

    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Any = None
    ) -> Any:
        out = func(*args, **(kwargs or {}))
        if (
            not func.is_view
            and "detach" not in str(func)
            and not str(func).startswith("aten.empty")
        ):
            self.counts[str(func)] += 1
        return out

    @property
    def total(self) -> int:
        """The number of operations."""
        return sum(self.counts.values())


def no_autocast(monkeypatch: pytest.MonkeyPatch, kind: str) -> None:
    """Let autocast do nothing on a kind of device that torch has none for."""
    real = torch.autocast
    monkeypatch.setattr(
        torch,
        "autocast",
        lambda device, **given: nullcontext() if device == kind else real(device, **given),
    )
    monkeypatch.setattr(torch, "is_autocast_enabled", lambda device: False)


@contextmanager
def no_values(monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[[Any], Any]]:
    """Yield a function that moves a module, a tensor or a batch to the meta device."""
    no_autocast(monkeypatch, "meta")

    def move(value: Any) -> Any:
        if isinstance(value, dict):
            return {name: move(part) for name, part in value.items()}
        return value.to("meta")

    yield move
