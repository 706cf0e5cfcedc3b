"""Paired comparison of checkpoints with a base, over the items that both answered.

Pairing removes the variance between items, which is most of it, and so detects differences that
two separate intervals would hide. Commands, report and screens all use this list, so they never
disagree about a winner.
"""

from __future__ import annotations

import math
from collections.abc import Collection, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from kdharness.harness.analysis.corrections import corrected_differences, is_corrected
from kdharness.harness.analysis.leaderboard import leaderboard
from kdharness.harness.analysis.metrics import is_bookkeeping, is_lower_better
from kdharness.harness.analysis.scorebook import Group, groups_of, read_group
from kdharness.harness.errors import ConfigError
from kdharness.harness.paths import Paths
from kdharness.harness.stats.rows import (
    ALPHA,
    LEAST_FOR_VERDICT,
    Row,
    mean_of,
    question_sums,
    sums_of_score,
    value_range,
)
from kdharness.harness.store import Store
from kdharness.harness.store.store import note_of
from kdharness.harness.types import Checkpoint, Score

if TYPE_CHECKING:
    from kdharness.harness.stats.inference import Difference

Key = tuple[str, str, str]
"""(benchmark, revision, judge)"""
Table = dict[Key, list[Row]]
COMPARISON_COLUMNS = (
    "bench",
    "metric",
    "judge",
    "base",
    "base_value",
    "other",
    "other_value",
    "difference",
    "ci_low",
    "ci_high",
    "p",
    "p_holm",
    "n",
    "n_needed",
    "verdict",
)
NOT_SIGNIFICANT = "not told apart"


@dataclass(frozen=True)
class Side:
    """A checkpoint with all its judgments."""

    checkpoint: Checkpoint
    table: Table

    @property
    def name(self) -> str:
        """The name of the checkpoint."""
        return self.checkpoint.name


def changed_between(store: Store, sides: Sequence[Side]) -> list[str]:
    """Return a sentence for each benchmark whose questions differ between the first and another.

    Both were evaluated on it, and it has changed in between: then no item is shared.
    """
    notes = store.bench_notes()
    revisions: dict[tuple[str, str, tuple[str, ...]], set[str]] = {}
    for group in groups_of(store, [side.checkpoint.id for side in sides]):
        # Other subsets, seeds or baselines are other revisions too, and have flags that say so.
        flags = tuple(note_of(notes, group.bench, group.revision).get("flags", ()))
        revisions.setdefault((group.checkpoint, group.bench, flags), set()).add(group.revision)
    base, *others = sides
    return [
        f"{bench} has changed since {base.name} or {other.name} was evaluated on it, so they have "
        "no questions in common: evaluate both again"
        for other in others
        for (checkpoint, bench, flags), own in sorted(revisions.items())
        if checkpoint == other.checkpoint.id
        and (theirs := revisions.get((base.checkpoint.id, bench, flags)))
        and not own & theirs
    ]


@dataclass(frozen=True)
class PairedComparison:
    """One score of two checkpoints: the difference is other minus base."""

    bench: str
    metric: str
    judge: str
    base: str
    other: str
    base_value: float
    other_value: float
    gap: Difference
    p_holm: float = 1.0
    revision: str = ""

    @property
    def lean(self) -> str:
        """`better` or `worse` if the interval excludes zero, before any correction.

        Empty below `LEAST_FOR_VERDICT` questions, whatever the interval.
        """
        if self.gap.low is None or self.gap.high is None or self.gap.n < LEAST_FOR_VERDICT:
            return ""
        if self.gap.low > 0:
            return "worse" if is_lower_better(self.metric) else "better"
        if self.gap.high < 0:
            return "better" if is_lower_better(self.metric) else "worse"
        return ""

    @property
    def verdict(self) -> str:
        """`better` or `worse` if the interval excludes zero *and* the Holm-corrected p < `ALPHA`.

        The two are different tests (a bootstrap and a sign-flip test), and with few questions one
        can pass where the other fails: a winner is declared only if both agree.
        """
        return (self.lean or NOT_SIGNIFICANT) if self.p_holm < ALPHA else NOT_SIGNIFICANT

    def as_dict(self) -> dict[str, object]:
        """Return a row of `compare`."""
        return {
            "bench": self.bench,
            "metric": self.metric,
            "judge": self.judge,
            "base": self.base,
            "base_value": self.base_value,
            "other": self.other,
            "other_value": self.other_value,
            "difference": self.gap.value,
            "ci_low": self.gap.low,
            "ci_high": self.gap.high,
            "p": self.gap.p,
            "p_holm": self.p_holm,
            "n": self.gap.n,
            "n_needed": self.gap.n_needed,
            "verdict": self.verdict,
            "revision": self.revision,
        }


def sides_of(store: Store, names: Sequence[str], benches: Collection[str] = ()) -> list[Side]:
    """Return the checkpoints of these names, ids or paths, with their judgments.

    Args:
        benches: only read judgments on these benchmarks; all by default.

    Raises:
        ConfigError: fewer than two names, or one that is not stored.
    """
    if len(names) < 2:
        raise ConfigError("compare needs at least two checkpoints")
    checkpoints = []
    for name in names:
        checkpoint = store.checkpoint(name)
        if checkpoint is None:
            raise ConfigError(f"no checkpoint named {name!r}", hint="see kdharness leaderboard")
        checkpoints.append(checkpoint)
    tables: dict[str, Table] = {checkpoint.id: {} for checkpoint in checkpoints}
    for group in groups_of(store, tables):
        if not benches or group.bench in benches:
            key = (group.bench, group.revision, group.judge)
            tables[group.checkpoint][key] = read_group(store, group)
    return [Side(checkpoint, tables[checkpoint.id]) for checkpoint in checkpoints]


def compare_all(store: Store, paths: Paths | None, names: Sequence[str]) -> list[PairedComparison]:
    """Compare each checkpoint with the first, on every score that is a mean over items.

    Raises:
        ConfigError: fewer than two names, or one that is not stored.
    """
    return compare_sides(store, paths, sides_of(store, names))


def compare_sides(
    store: Store, paths: Paths | None, sides: Sequence[Side]
) -> list[PairedComparison]:
    """Compare each side with the first, on every score that is a mean over items.

    Scores that are not the mean of their rows (a length-controlled rate, a panel) are left out.
    """
    from kdharness.harness.stats.inference import paired_difference

    base, *others = sides
    compared: list[PairedComparison] = []
    scores = leaderboard(store, paths, checkpoints=[base.checkpoint.id], panels=False)
    for score in scores:
        if score.value is None or is_bookkeeping(score.metric) or is_corrected(score.metric):
            continue
        matched = _rows_of(base.table, score, score.value)
        if matched is None:
            continue
        key, sums = matched
        for other in others:
            if key not in other.table:
                continue
            theirs = question_sums(other.table[key], score.metric)
            bounds = value_range(base.table[key], score.metric)
            gap = paired_difference(theirs, sums, bounds=bounds)
            if gap is not None:
                compared.append(
                    PairedComparison(
                        score.bench,
                        score.metric,
                        score.judge,
                        base.name,
                        other.name,
                        score.value,
                        mean_of(theirs),
                        gap,
                        revision=key[1],
                    )
                )
    for other in others:
        compared += _corrected_differences(store, base, other, scores)
    return _corrected(compared)


def _corrected_differences(
    store: Store, base: Side, other: Side, scores: Sequence[Score]
) -> list[PairedComparison]:
    """Compare two sides by people's labels of the answers of both, with the judge's help."""
    shown: dict[tuple[str, str], dict[str, list[float]]] = {}
    for score in scores:
        if score.value is not None:
            metrics = shown.setdefault((score.bench, score.judge), {})
            metrics.setdefault(score.metric, []).append(score.value)
    found: dict[tuple[str, str, str], PairedComparison] = {}
    for bench, revision, judge in base.table:
        if (bench, revision, judge) not in other.table:
            continue
        mine, theirs = (
            Group(side.checkpoint.id, bench, revision, judge, 0) for side in (base, other)
        )
        names = shown.get((bench, judge), {})
        for metric, values, gap in corrected_differences(store, mine, theirs, names):
            # Other revisions' verdicts of the same answers are not what the leaderboard shows.
            if any(math.isclose(values[0], value) for value in names.get(metric, ())):
                found[bench, metric, judge] = PairedComparison(
                    bench, metric, judge, base.name, other.name, *values, gap, revision=revision
                )
    return list(found.values())


def _corrected(compared: Sequence[PairedComparison]) -> list[PairedComparison]:
    """Apply Holm's correction over all comparisons on one benchmark under one judge.

    Many categories and checkpoints cause false positives, so they form one family. Each benchmark
    is a family of its own, and so are scores corrected by labels: other measurements must not
    change its result.
    """
    from kdharness.harness.stats.inference import holm

    families: dict[tuple[str, str, bool], list[int]] = {}
    for index, comparison in enumerate(compared):
        corrected_by_labels = is_corrected(comparison.metric)
        family = comparison.bench, comparison.judge, corrected_by_labels
        families.setdefault(family, []).append(index)
    corrected = list(compared)
    for indices in families.values():
        adjusted = holm([compared[index].gap.p for index in indices])
        for index, p in zip(indices, adjusted, strict=True):
            corrected[index] = replace(compared[index], p_holm=p)
    return corrected


def _rows_of(
    table: Table, score: Score, value: float
) -> tuple[Key, dict[str, tuple[float, float]]] | None:
    """Return the group whose mean is this score's value, with its sums by question."""
    for key, rows in table.items():
        if (key[0], key[2]) != (score.bench, score.judge):
            continue
        sums = sums_of_score(rows, score.metric, value)
        if sums is not None:
            return key, sums
    return None
