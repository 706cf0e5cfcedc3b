"""Matrix products in bf16 by way of fp32."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import nullcontext
from typing import Any

import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_map_only

from kdharness.trainers.tools.measure import peak_bytes

aten = torch.ops.aten
PRODUCTS = {
    aten.mm.default,
    aten.addmm.default,
    aten.bmm.default,
    aten.baddbmm.default,
    aten._grouped_mm.default,
}


def peak_with_fast_products(work: Callable[[], object], precision: str) -> int:
    """Return `peak_bytes` of work whose values do not matter."""
    # The counting mode is the inner one: it does not see what is allocated for a fast product.
    with nullcontext() if precision == "fp32" else FastProducts():
        return peak_bytes(work)


class FastProducts(TorchDispatchMode):
    """Compute products of bf16 matrices in fp32, and round the results.

    A CPU without instructions for bf16 takes two hundred times as long over them.
    """

    def __torch_dispatch__(
        self,
        func: Callable[..., Any],
        types: object,
        args: tuple[Any, ...] = (),
        kwargs: dict[str, Any] | None = None,
    ) -> Any:
        """Run the operation, a product on copies of its arguments."""
        kwargs = kwargs or {}
        first = args[0] if args else None
        if func not in PRODUCTS or getattr(first, "dtype", None) is not torch.bfloat16:
            return func(*args, **kwargs)
        args, kwargs = tree_map_only(torch.Tensor, _exact, (args, kwargs))
        return func(*args, **kwargs).bfloat16()


def _exact(value: torch.Tensor) -> torch.Tensor:
    return value.float() if value.dtype is torch.bfloat16 else value
