"""The data of the Compare screen: scores, flips, settings, costs, the profile. No widgets."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from kdharness.harness.analysis.compare import PairedComparison, Side, compare_sides, sides_of
from kdharness.harness.analysis.costs import Cost, costs_of
from kdharness.harness.analysis.forgetting import Profile, profile_of
from kdharness.harness.analysis.side_by_side import flips, settings_that_differ
from kdharness.harness.paths import Paths
from kdharness.harness.stats.inference import Difference
from kdharness.harness.store import Store
from kdharness.tui.viewmodels.leaderboard import FEW


@dataclass(frozen=True)
class Line:
    """One score: the base's value, and each other checkpoint compared with it, by name."""

    bench: str
    metric: str
    judge: str
    revision: str
    value: float
    others: Mapping[str, PairedComparison]


@dataclass(frozen=True)
class CompareView:
    """All data about the compared checkpoints; the first is the base."""

    sides: tuple[Side, ...] = ()
    lines: tuple[Line, ...] = ()
    settings: tuple[tuple[str, list[Any]], ...] = ()
    costs: tuple[Cost, ...] = ()


def load(store: Store, paths: Paths, names: Sequence[str]) -> CompareView:
    """Read and compare these checkpoints.

    Raises:
        ConfigError: one of them is not in the store.
    """
    sides = sides_of(store, names)
    checkpoints = [side.checkpoint for side in sides]
    return CompareView(
        tuple(sides),
        tuple(lines_of(compare_sides(store, paths, sides))),
        tuple(settings_that_differ(store, checkpoints)),
        tuple(costs_of(store, checkpoints)),
    )


def load_profile(store: Store, found: CompareView) -> Profile:
    """Return what the others lost or changed beside the domain, against the base.

    It reads all answers, which the other pages do not need.
    """
    compared = (pair for line in found.lines for pair in line.others.values())
    return profile_of(store, found.sides, compared)


def lines_of(compared: Sequence[PairedComparison]) -> list[Line]:
    """Return one line per score, in the given order."""
    table: dict[tuple[str, str, str, str], dict[str, PairedComparison]] = {}
    for pair in compared:
        key = (pair.bench, pair.metric, pair.judge, pair.revision)
        table.setdefault(key, {})[pair.other] = pair
    return [
        Line(*key, next(iter(others.values())).base_value, others) for key, others in table.items()
    ]


def line_order(line: Line, lead: Sequence[str]) -> tuple[int, bool]:
    """Return a sort key: the metrics that lead, then the others; scores of few items last."""
    label = f"{line.bench}:{line.metric}"
    few = max((pair.gap.n for pair in line.others.values()), default=0) < FEW
    return (lead.index(label) if label in lead else len(lead)), few


def flip_rows(base: Side, other: Side) -> list[dict[str, object]]:
    """Return a row for each item whose verdict changed, the largest moves first."""
    return [
        {
            "id": f"{f.bench}:{f.judge}:{f.item}:{f.metric}",
            "bench": f.bench,
            "item": f.item,
            "category": f.category,
            "first": f.first,
            "second": f.second,
            "move": f.second - f.first,
            "flip": f.flipped,
            "judge": f.judge,
        }
        for f in flips(base.table, other.table)
    ]


def finite_ends(gap: Difference) -> tuple[float, float]:
    """Return the interval's bounds, or the value itself if there is no interval."""
    if gap.low is None or gap.high is None:
        return gap.value, gap.value
    return gap.low, gap.high


def p_words(pair: PairedComparison) -> str:
    """Return both p-values by name: the corrected one of the table, and the one of this pair."""
    return f"p {pair.gap.p:.3g} (Holm {pair.p_holm:.3g})"


def verdict(pair: PairedComparison) -> tuple[str, str]:
    """Return ▲ better, ▼ worse, ≈ no difference; hollow if not significant once corrected."""
    if not pair.lean:
        return "≈", "dim"
    better = pair.lean == "better"
    if pair.verdict != pair.lean:
        return ("△" if better else "▽"), "dim"
    return ("▲", "good") if better else ("▼", "bad")


WORDS = {
    "▲": "better",
    "▼": "worse",
    "≈": "not significantly different",
    "△": "perhaps better",
    "▽": "perhaps worse",
}
"""A mark of `verdict` -> its words."""
