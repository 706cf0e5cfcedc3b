"""IFEval's accuracies from stored judgments."""

from __future__ import annotations

from collections.abc import Sequence

from kdharness.harness.stats.metric_specs import SHARE
from kdharness.harness.stats.rows import Row, ScoreContext, counted_once
from kdharness.harness.types import MetricValue
from kdharness.judges.scoring.metric_values import by_category, measure

PROMPT_STRICT, PROMPT_LOOSE = "prompt_strict", "prompt_loose"
INST_STRICT, INST_LOOSE = "inst_strict", "inst_loose"


def score_ifeval(rows: Sequence[Row], context: ScoreContext) -> list[MetricValue]:
    """Score the four accuracies, and the strict one of each kind of instruction.

    A prompt counts if all its instructions are followed. Intervals are over prompts: the
    instructions of one prompt stand or fall together.
    """
    kept = counted_once(rows)
    named = {
        name: [row for row in kept if row.metric == name]
        for name in (PROMPT_STRICT, PROMPT_LOOSE, INST_STRICT, INST_LOOSE)
    }
    scores = [measure(name, part, SHARE.bounds) for name, part in named.items()]
    kinds = by_category(named[INST_STRICT])
    return scores + [
        measure(f"category:{kind}", part, SHARE.bounds) for kind, part in kinds.items()
    ]
