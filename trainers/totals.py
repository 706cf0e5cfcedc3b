"""What a training really processed, sampled answers included: tokens and FLOPs."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from kdharness.trainers.context import TrainContext
from kdharness.trainers.data.batches import BatchPlan, measure
from kdharness.trainers.data.on_policy import answer_start, with_sampled
from kdharness.trainers.flops import BatchCosts
from kdharness.trainers.rollouts import SampledRows


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


def stored_facts(
    setting: TrainContext, costs: BatchCosts, step: int, sampled: SampledRows | None
) -> dict[str, Any]:
    """Return what is stored with a checkpoint on the training up to its step."""
    plan = setting.plan.until(step, setting.train.rows)
    totals = totals_of(setting, costs, plan, sampled.sizes(step) if sampled is not None else None)
    return {
        "tokens": totals.tokens,
        "labelled": totals.labelled,
        "flops": totals.flops,
        "padding_share": round(totals.padding_share, 4),
        "shares": plan.share,
        "processes": setting.job.world,
        **({"sampled": totals.sampled} if sampled is not None else {}),
    }
