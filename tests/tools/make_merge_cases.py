"""Write tests/fixtures/merging/ties.json: small TIES merges as mergekit computes them.

Run by hand with mergekit on the path (`pip install mergekit` in an environment of its own).
"""

from __future__ import annotations

import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import torch

OUT = Path(__file__).parents[1] / "fixtures" / "merging" / "ties.json"


def merged(
    base: torch.Tensor,
    others: list[torch.Tensor],
    weights: list[float],
    scale: float,
    density: float,
) -> torch.Tensor:
    """Merge one tensor with mergekit's own method."""
    from mergekit.merge_methods.generalized_task_arithmetic import (  # type: ignore[import-not-found]
        ConsensusMethod,
        GeneralizedTaskArithmeticMerge,
        SparsificationMethod,
    )

    method = GeneralizedTaskArithmeticMerge(
        consensus_method=ConsensusMethod.sum,
        sparsification_method=SparsificationMethod.magnitude,
        default_normalize=True,
        default_rescale=False,
        method_name="ties",
        method_pretty_name="TIES",
        method_reference_url="",
    )
    entries = [SimpleNamespace(id=n, tensor=tensor) for n, tensor in enumerate(others)]
    group: Any = SimpleNamespace(base=SimpleNamespace(tensor=base), non_base=entries)
    result: torch.Tensor = method.merge_group(
        group,
        weight=dict(enumerate(weights)),
        density=dict.fromkeys(range(len(others)), density),
        normalize=True,
        rescale=False,
        int8_mask=False,
        **{"lambda": scale},
    )
    return result


def main() -> None:
    """Draw tensors and write them with their merges."""
    torch.manual_seed(0)
    cases = []
    for shape, count, weights, scale, density in (
        ((3, 4), 2, [1.0, 1.0], 1.0, 0.2),
        ((3, 4), 2, [1.0, 1.0], 1.0, 1.0),
        ((5,), 3, [0.5, 1.0, 2.0], 0.7, 0.5),
        ((2, 3, 2), 3, [1.0, 1.0, 1.0], -1.0, 0.34),
        ((7,), 1, [1.0], 1.5, 0.01),
    ):
        base = torch.randn(shape)
        others = [base + torch.randn(shape) for _ in range(count)]
        cases.append(
            {
                "base": base.tolist(),
                "others": [other.tolist() for other in others],
                "weights": weights,
                "scale": scale,
                "density": density,
                "merged": merged(base, others, weights, scale, density).tolist(),
            }
        )
    OUT.parent.mkdir(exist_ok=True)
    OUT.write_text(json.dumps(cases, indent=1) + "\n", "utf-8")


if __name__ == "__main__":
    main()
