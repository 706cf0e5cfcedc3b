"""The leaderboard: checkpoints x benchmarks x metrics, derived from stored judgments."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from itertools import pairwise

from kdharness.harness.analysis.corrections import add_corrections
from kdharness.harness.analysis.figures import figures_of
from kdharness.harness.analysis.metrics import is_lower_better
from kdharness.harness.analysis.scorebook import (
    Group,
    ScoreCache,
    add_panels,
    group_flags,
    groups_of,
    judge_flags,
    newest_revisions,
)
from kdharness.harness.paths import Paths
from kdharness.harness.stats.rows import TOO_SMALL, about
from kdharness.harness.store import Store
from kdharness.harness.types import Checkpoint, MetricValue, Score


def leaderboard(
    store: Store,
    paths: Paths | None = None,
    *,
    checkpoints: Iterable[str] | None = None,
    benches: Iterable[str] | None = None,
    as_published: bool = False,
    panels: str | bool = True,
) -> list[Score]:
    """Return every score of the store, one `Score` per checkpoint, benchmark, metric and judge.

    Args:
        paths: where pulled assets are; without them the length-controlled win rate is computed
            without instruction difficulties.
        checkpoints, benches: only these, by name or id.
        as_published: count rows as the benchmarks' own scripts do.
        panels: add scores that aggregate several judges: mean (the default), median or
            majority; none omits them.
    """
    known = {c.id: c for c in store.checkpoints()}
    wanted = set(checkpoints) if checkpoints is not None else None
    chosen = set(benches) if benches is not None else None
    if wanted is not None:
        known = {key: c for key, c in known.items() if {key, c.name} & wanted}
    groups = [
        group
        for group in groups_of(store, None if wanted is None else known)
        if group.checkpoint in known and (chosen is None or group.bench in chosen)
    ]
    notes = store.bench_notes()
    groups, hides = newest_revisions(groups, notes)
    cache = ScoreCache(store, {group.checkpoint for group in groups})
    figures = figures_of(store, paths, groups, notes, cache, as_published)
    members: dict[str, list[str]] = {}
    if panels and panels != "none":
        how = panels if isinstance(panels, str) else "mean"
        members = add_panels(store, paths, groups, figures, notes, cache, as_published, how)
    if not as_published:
        figures = add_corrections(store, figures)
    cards = store.cards()
    scores: list[Score] = []

    def place(group: Group) -> tuple[str, str, str]:
        return group.bench, group.judge, known[group.checkpoint].name

    for group in sorted(figures, key=place):
        checkpoint = known[group.checkpoint]
        found = [*group_flags(group, notes, cards, as_published), *hides.get(group, ())]
        # A panel is no better tested than its judges.
        found += [f for judge in members.get(group.judge, ()) for f in judge_flags(judge, cards)]
        flags = tuple(dict.fromkeys(found))
        only = notes.get((group.checkpoint, group.bench, group.revision), {}).get("only", {})
        scores += [
            _score(checkpoint, group, value, about(flags, only, value.metric))
            for value in figures[group]
        ]
    return scores


def _score(
    checkpoint: Checkpoint, group: Group, value: MetricValue, flags: tuple[str, ...]
) -> Score:
    return Score(
        checkpoint=checkpoint.name,
        run=checkpoint.run,
        method=checkpoint.method,
        bench=group.bench,
        metric=value.metric,
        value=value.value,
        ci_low=value.ci_low,
        ci_high=value.ci_high,
        n=value.n,
        n_failed=value.n_failed,
        judge=group.judge,
        flags=tuple(dict.fromkeys([*flags, *value.flags])) if value.flags else flags,
    )


def unresolved(scores: Sequence[Score]) -> set[tuple[str, str, str, str]]:
    """Return the scores that cannot be ranked, because neighbouring intervals overlap.

    Each is a (checkpoint, bench, metric, judge).
    """
    tables: dict[tuple[str, str, str], list[Score]] = {}
    for score in scores:
        if score.value is not None:
            tables.setdefault((score.bench, score.metric, score.judge), []).append(score)
    overlapping: set[tuple[str, str, str, str]] = set()
    for (bench, metric, judge), table in tables.items():
        table.sort(key=lambda s: s.value or 0.0, reverse=not is_lower_better(metric))
        for better, worse in pairwise(table):
            few = TOO_SMALL in (*better.flags, *worse.flags)
            ends = better.ci_low, better.ci_high, worse.ci_low, worse.ci_high
            if not few and None in ends:
                continue
            low, high, other_low, other_high = (end or 0.0 for end in ends)
            if few or (low <= other_high and other_low <= high):
                overlapping |= {(s.checkpoint, bench, metric, judge) for s in (better, worse)}
    return overlapping


def rank_ranges(scores: Sequence[Score]) -> list[str]:
    """Return the possible ranks of each score within benchmark, metric and judge: `1` or `2-4`.

    A score ranks above another only if their intervals do not overlap; counts and published
    scores, which have no interval, are compared by value.
    """
    tables: dict[tuple[str, str, str], list[int]] = {}
    for index, score in enumerate(scores):
        if score.value is not None:
            tables.setdefault((score.bench, score.metric, score.judge), []).append(index)
    ranks = [""] * len(scores)
    for (_, metric, _), indices in tables.items():
        sign = -1.0 if is_lower_better(metric) else 1.0
        ends = {index: _ends(scores[index], sign) for index in indices}
        for index in indices:
            low, high = ends[index]
            above = sum(other[0] > high for other in ends.values())
            below = sum(other[1] < low for other in ends.values())
            best, worst = above + 1, len(indices) - below
            ranks[index] = str(best) if best == worst else f"{best}-{worst}"
    return ranks


def _ends(score: Score, sign: float) -> tuple[float, float]:
    """Return the interval, higher being better; infinite if there are too few questions."""
    if TOO_SMALL in score.flags:
        return -math.inf, math.inf
    value = score.value or 0.0
    low = value if score.ci_low is None else score.ci_low
    high = value if score.ci_high is None else score.ci_high
    return (sign * low, sign * high) if sign > 0 else (sign * high, sign * low)
