"""Cost of a checkpoint: its own training, that of its ancestors, and judging its answers.

The cost of a student is more than that of its last run: the initial student, the teacher, the
expert and the reference were trained too, and each of those runs counts once.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from kdharness.harness.store import Store
from kdharness.harness.types import Checkpoint, Method, Run
from kdharness.harness.util.text import DASH, clock

COST_COLUMNS = (
    "checkpoint",
    "tokens",
    "flops",
    "flops_total",
    "flops_known",
    "trainings",
    "seconds",
    "judge_calls",
    "judge_usd",
)
TITLES = {
    "tokens": "tokens trained",
    "flops": "FLOPs",
    "flops_total": "FLOPs with ancestors",
    "seconds": "training time",
    "judge_calls": "judge calls",
    "judge_usd": "judge USD",
}
"""Column headers of the values shown to people."""
_UNTRAINED = frozenset({Method.MERGE, Method.CUT, Method.EXPORT, Method.MODEL, Method.IMPORT})


@dataclass(frozen=True)
class Cost:
    """One checkpoint's cost; None where nothing is stored.

    Attributes:
        tokens, flops, seconds: of its own training; 0 if it was made without training.
        flops_total: including all ancestors; None if one of them has no stored value.
        flops_known: the same sum over those that have one.
        trainings: number of training runs in its lineage, including its own.
        judge_calls, judge_usd: calls to judge its answers, and their price.
    """

    checkpoint: str
    tokens: int | None
    flops: float | None
    flops_total: float | None
    flops_known: float
    trainings: int
    seconds: float | None
    judge_calls: int = 0
    judge_usd: float = 0.0

    def as_dict(self) -> dict[str, Any]:
        """Return a row of `compare --what cost`."""
        return {name: getattr(self, name) for name in COST_COLUMNS}

    def texts(self) -> dict[str, str]:
        """Return the values formatted for people, by the keys of `TITLES`."""
        total = flops_text(self.flops_total)
        if self.flops_total is None and self.flops_known:
            total = f"≥ {flops_text(self.flops_known)}"
        return {
            "tokens": DASH if self.tokens is None else f"{self.tokens:,}",
            "flops": flops_text(self.flops),
            "flops_total": total,
            "seconds": clock(self.seconds) or DASH,
            "judge_calls": f"{self.judge_calls:,}",
            "judge_usd": f"{self.judge_usd:.2f}",
        }


def flops_text(value: float | None) -> str:
    """Format FLOPs with three digits, `1.23e15`."""
    return DASH if value is None else f"{value:.3g}".replace("e+", "e")


def costs_of(store: Store, checkpoints: Sequence[Checkpoint]) -> list[Cost]:
    """Return the training and judging cost of each checkpoint."""
    costs = []
    for checkpoint in checkpoints:
        spent = store.judge_spending(checkpoint.id)
        costs.append(
            replace(
                training_cost(store, checkpoint),
                judge_calls=sum(row["calls"] for row in spent),
                judge_usd=sum(row["usd"] for row in spent),
            )
        )
    return costs


def training_cost(store: Store, checkpoint: Checkpoint) -> Cost:
    """Return the cost of a checkpoint's own training and the FLOPs of its whole lineage.

    Merges and cuts cost nothing themselves. Training done elsewhere is not counted, nor are
    parents that are no longer stored; cycles in the lineage are cut.
    """
    run = store.run(checkpoint.run) if checkpoint.run else None
    trained = is_trained(checkpoint)
    lineage = _trainings(store, checkpoint)
    known = math.fsum(flops for flops in lineage.values() if flops is not None)
    # Without parents and without a training run in this home, its cost is unknown.
    elsewhere = not trained and not checkpoint.parents
    whole = not elsewhere and None not in lineage.values()
    nothing = None if elsewhere else 0.0
    tokens = _figure("tokens", checkpoint, run) if trained else nothing
    return Cost(
        checkpoint=checkpoint.name,
        tokens=None if tokens is None else int(tokens),
        flops=_figure("flops", checkpoint, run) if trained else nothing,
        flops_total=known if whole else None,
        flops_known=known,
        trainings=len(lineage),
        seconds=_seconds(run) if trained else nothing,
    )


def is_trained(checkpoint: Checkpoint) -> bool:
    """Return whether a run of this home trained it, rather than merged, cut or imported it."""
    return checkpoint.run is not None and checkpoint.method not in _UNTRAINED


def _trainings(store: Store, checkpoint: Checkpoint) -> dict[str, float | None]:
    """Map each training run in a checkpoint's lineage, including its own, to its FLOPs."""
    flops: dict[str, float | None] = {}
    seen: set[str] = set()
    waiting = [checkpoint]
    while waiting:
        current = waiting.pop()
        if current.id in seen:
            continue
        seen.add(current.id)
        # The last and the best weights of a run are two checkpoints of one training.
        if current.run is not None and is_trained(current) and flops.get(current.run) is None:
            flops[current.run] = _figure("flops", current, store.run(current.run))
        parents = [store.checkpoint(key) for key in current.parents.values()]
        waiting += [parent for parent in parents if parent is not None]
    return flops


def _figure(name: str, checkpoint: Checkpoint, run: Run | None) -> float | None:
    """Return a value that the training stored with the weights or the run."""
    for info in (checkpoint.info, run.info if run is not None else {}):
        value = _number(info, name)
        if value is not None:
            return value
    return None


def _number(info: Mapping[str, object], name: str) -> float | None:
    value = info.get(name)
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        return None
    return value if math.isfinite(value) and value >= 0 else None


def _seconds(run: Run | None) -> float | None:
    """Return the time from start to end, including time between a stop and a resume."""
    if run is None or run.started is None or run.finished is None:
        return None
    return max(0.0, run.finished - run.started)
