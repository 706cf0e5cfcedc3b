"""The primary metrics beside runs. No widgets."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from kdharness.harness.analysis.leaderboard import leaderboard
from kdharness.harness.analysis.metrics import is_lower_better
from kdharness.harness.paths import Paths
from kdharness.harness.store import Store
from kdharness.tui.viewmodels.rows import Column


@dataclass(frozen=True)
class PrimaryScores:
    """Scores by checkpoint and axis, and the columns that show them."""

    scores: dict[str, dict[str, float]]
    columns: list[Column]


def primary_scores(store: Store, paths: Paths, primary: Mapping[str, str]) -> PrimaryScores:
    """Return each checkpoint's scores in the primary metrics, by axis.

    Of several judges, the one with the most items counts, as on the trade-off.
    """
    found: dict[str, dict[str, float]] = {}
    counts: dict[tuple[str, str], int] = {}
    axes = {label: axis for axis, label in primary.items()}
    benches = {label.partition(":")[0] for label in axes}
    for score in leaderboard(store, paths, benches=benches):
        axis = axes.get(f"{score.bench}:{score.metric}")
        if axis is None or score.value is None:
            continue
        if score.n > counts.get((score.checkpoint, axis), -1):
            counts[score.checkpoint, axis] = score.n
            found.setdefault(score.checkpoint, {})[axis] = score.value
    columns = [
        Column(
            axis,
            label.partition(":")[2],
            9,
            right=True,
            leave=1,
            falling=not is_lower_better(label.partition(":")[2]),
        )
        for label, axis in axes.items()
    ]
    return PrimaryScores(found, columns)
