"""Checkpoints x benchmarks x metrics, derived from stored judgments."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from itertools import pairwise

from kdharness.harness.analysis.metrics import is_lower_better
from kdharness.harness.analysis.scorebook import (
    Group,
    add_panels,
    figures_of,
    group_flags,
    groups_of,
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
    """Every figure of the store, one `Score` a checkpoint x benchmark x metric x judge.

    Args:
        paths: where pulled assets lie; without them the length-controlled win rate is the
            difficulty-free one.
        checkpoints, benches: only these, by name or id.
        as_published: count rows as the benchmarks' own scripts would.
        panels: add rows that put several judges together: mean (the default), median or
            majority; none leaves them out.
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
    cached = store.cached_scores({group.checkpoint for group in groups})
    figures = figures_of(store, paths, groups, notes, cached, as_published)
    if panels and panels != "none":
        how = panels if isinstance(panels, str) else "mean"
        add_panels(store, paths, groups, figures, notes, cached, as_published, how)
    cards = store.cards()
    scores: list[Score] = []
    for group, values in figures.items():
        checkpoint = known[group.checkpoint]
        flags = (*group_flags(group, notes, cards, as_published), *hides.get(group, ()))
        only = notes.get((group.checkpoint, group.bench, group.revision), {}).get("only", {})
        scores += [_score(checkpoint, group, v, about(flags, only, v.metric)) for v in values]
    return sorted(scores, key=lambda s: (s.bench, s.judge, s.checkpoint))


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
        flags=tuple(dict.fromkeys([*flags, *value.flags])),
    )


def unresolved(scores: Sequence[Score]) -> set[tuple[str, str, str, str]]:
    """Figures that the intervals do not let one rank: each overlaps the one above it.

    Returns the (checkpoint, bench, metric, judge) of every score whose interval reaches the
    next better one's estimate.
    """
    tables: dict[tuple[str, str, str], list[Score]] = {}
    for score in scores:
        if score.value is not None:
            tables.setdefault((score.bench, score.metric, score.judge), []).append(score)
    found: set[tuple[str, str, str, str]] = set()
    for (bench, metric, judge), table in tables.items():
        table.sort(key=lambda s: s.value or 0.0, reverse=not is_lower_better(metric))
        for better, worse in pairwise(table):
            few = TOO_SMALL in (*better.flags, *worse.flags)
            ends = better.ci_low, better.ci_high, worse.ci_low, worse.ci_high
            if not few and None in ends:
                continue
            low, high, other_low, other_high = (end or 0.0 for end in ends)
            if few or (low <= other_high and other_low <= high):
                found |= {(s.checkpoint, bench, metric, judge) for s in (better, worse)}
    return found


def rank_ranges(scores: Sequence[Score]) -> list[str]:
    """Which ranks a score may have among its benchmark, metric and judge: `1`, or `2-4`.

    One is surely better than another only where their intervals do not overlap; counts and
    published figures, which have none, are compared by their values.
    """
    tables: dict[tuple[str, str, str], list[int]] = {}
    for place, score in enumerate(scores):
        if score.value is not None:
            tables.setdefault((score.bench, score.metric, score.judge), []).append(place)
    ranks = [""] * len(scores)
    for (_, metric, _), places in tables.items():
        sign = -1.0 if is_lower_better(metric) else 1.0
        ends = {place: _ends(scores[place], sign) for place in places}
        for place in places:
            low, high = ends[place]
            above = sum(other[0] > high for other in ends.values())
            below = sum(other[1] < low for other in ends.values())
            best, worst = above + 1, len(places) - below
            ranks[place] = str(best) if best == worst else f"{best}-{worst}"
    return ranks


def _ends(score: Score, sign: float) -> tuple[float, float]:
    """The interval turned so that more is better; boundless where there is too little for one."""
    if TOO_SMALL in score.flags:
        return -math.inf, math.inf
    value = score.value or 0.0
    low = value if score.ci_low is None else score.ci_low
    high = value if score.ci_high is None else score.ci_high
    return (sign * low, sign * high) if sign > 0 else (sign * high, sign * low)
