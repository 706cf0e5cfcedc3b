"""Steps on two devices that exist only as names: their tensors have shapes and no values.

Products of tensors on different devices are errors, as on two GPUs, and so is reading a value.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest
import torch
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.utils._python_dispatch import TorchDispatchMode

from support.device_trace import no_autocast

# Of torch's device types the one that can be indexed without its hardware.
FIRST, SECOND = torch.device("lazy:0"), torch.device("lazy:1")


class Copies(TorchDispatchMode):
    """Counts copies between devices, by (from, to, whether the host waits)."""

    def __init__(self) -> None:
        super().__init__()
        self.counts: Counter[tuple[str, str, bool]] = Counter()

    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Any = None
    ) -> Any:
        kwargs = kwargs or {}
        out = func(*args, **kwargs)
        if func is torch.ops.aten._to_copy.default and args[0].device != out.device:
            waits = not kwargs.get("non_blocking", False)
            self.counts[str(args[0].device), str(out.device), waits] += 1
        return out


@contextmanager
def no_hardware(monkeypatch: pytest.MonkeyPatch) -> Iterator[FakeTensorMode]:
    """Yield a mode whose tensors may be on FIRST and SECOND."""
    no_autocast(monkeypatch, "lazy")
    with FakeTensorMode(allow_non_fake_inputs=True) as mode:
        yield mode


def place(model: torch.nn.Module, device: torch.device) -> None:
    """Replace a model's weights by tensors without values on a device."""
    for module in model.modules():
        for name, value in module.named_parameters(recurse=False):
            made = torch.empty_like(value, device=device)
            setattr(module, name, torch.nn.Parameter(made, value.requires_grad))
        for name, value in module.named_buffers(recurse=False):
            setattr(module, name, torch.empty_like(value, device=device))
