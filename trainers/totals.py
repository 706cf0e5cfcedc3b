"""What a training really processed, sampled answers included: tokens and FLOPs."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from kdharness.trainers.context import TrainContext
from kdharness.trainers.data.batches import BatchPlan, measure
from kdharness.trainers.data.on_policy import answer_start, with_sampled
from kdharness.trainers.flops import BatchCosts


@dataclass(frozen=True)
class Totals:
    """Tokens without padding, labelled positions, share of padding, FLOPs, and sampled tokens."""

    tokens: int
    labelled: int
    padding_share: float
    flops: float
    sampled: int = 0


def totals_of(
    setting: TrainContext,
    costs: BatchCosts,
    plan: BatchPlan,
    sizes: Mapping[tuple[int, int], int] | None = None,
) -> Totals:
    """Return the totals of a training.

    Args:
        setting: the training.
        costs: the FLOPs of its micro-batches.
        plan: its steps, up to where it ended.
        sizes: (step, row) -> tokens of each sampled answer; None if there was none.
    """
    sizes = sizes or {}
    rows = setting.train.rows
    trained = [
        with_sampled(rows, batch, 1 + number // plan.per_step, sizes)
        for number, batch in enumerate(plan.batches)
    ]
    tokens, labelled, padded = measure(trained, packed=plan.packed)
    flops = sum(map(costs.of, trained))
    # A row that stands twice in a step was sampled once.
    flops += sum(
        costs.sampling(answer_start(rows[row].labels), count) for (_, row), count in sizes.items()
    )
    return Totals(tokens, labelled, padded / max(padded + tokens, 1), flops, sum(sizes.values()))
