"""Scores from stored judgments: one pure function per benchmark, without its files."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from kdharness.harness.stats.inference import ratio_interval
from kdharness.harness.stats.metric_specs import EXPECTED, EXPECTED_RATING, NATS, RATING, SHARE
from kdharness.harness.stats.rows import (
    OK,
    Row,
    ScoreContext,
    counted_once,
    metric_value,
    outcome_of,
)
from kdharness.harness.types import MetricValue
from kdharness.judges.scoring.alpaca import score_alpaca_eval_2
from kdharness.judges.scoring.metric_values import (
    by_category,
    measure,
)


def score_ratings(rows: Sequence[Row], context: ScoreContext) -> list[MetricValue]:
    """Score MT-Bench single grading.

    `score` is the mean over all rated rows (not the mean of the two turns' means), as FastChat
    prints it.
    """
    rows = _as_stored(rows) if context.as_published else counted_once(rows)
    scores = [measure("score", rows, RATING.bounds)]
    for turn in sorted({row.turn for row in rows}):
        scores.append(measure(f"turn_{turn}", [r for r in rows if r.turn == turn], RATING.bounds))
    categories = by_category(rows)
    if len(categories) > 1 or "" not in categories:
        scores += [measure(f"category:{c}", part, RATING.bounds) for c, part in categories.items()]
    return scores


def score_mt_bench(rows: Sequence[Row], context: ScoreContext) -> list[MetricValue]:
    """Score MT-Bench single grading, by parsed ratings or by expected ones."""
    expected = [row for row in rows if row.metric == EXPECTED_RATING]
    if not expected:
        return score_ratings(rows, context)
    parsed = [row for row in rows if row.metric != EXPECTED_RATING]
    return [*(score_ratings(parsed, context) if parsed else []), *score_expected(expected)]


def score_expected(rows: Sequence[Row]) -> list[MetricValue]:
    """Score expected ratings: as `score_ratings`, under names of their own."""
    scores = []
    for value in score_ratings(rows, ScoreContext()):
        name = EXPECTED_RATING if value.metric == "score" else f"{EXPECTED}{value.metric}"
        scores.append(value._replace(metric=name))
    return scores


def _as_stored(rows: Sequence[Row]) -> list[Row]:
    """Return rows with the values that FastChat averages, including those out of range."""
    return [
        row._replace(status=OK, value=row.published)
        if row.status != OK and row.published is not None
        else row
        for row in rows
    ]


def score_exact(rows: Sequence[Row], context: ScoreContext) -> list[MetricValue]:
    """Score exact metrics in 0-1: the mean over rows, and that of each category."""
    rows = counted_once(rows)
    scores = [measure("score", rows, SHARE.bounds)]
    categories = by_category(rows)
    if len(categories) > 1 or "" not in categories:
        scores += [measure(f"category:{c}", part, SHARE.bounds) for c, part in categories.items()]
    return scores


def score_heldout(rows: Sequence[Row], context: ScoreContext) -> list[MetricValue]:
    """Score held-out rows: nats per labelled token (loss, kl) and the share of agreed tokens."""
    scores = []
    kept = counted_once(rows)
    for name in dict.fromkeys(row.metric for row in kept):
        part = [row for row in kept if row.metric == name]
        bounds = SHARE.bounds if name.endswith("_agreement") else NATS.bounds
        scores.append(measure(name, part, bounds))
    return scores


def score_pairs(rows: Sequence[Row], context: ScoreContext) -> list[MetricValue]:
    """Score pairwise MT-Bench: a match is one turn against one baseline, in both orders.

    A win counts only if both orders agree; everything else is a tie; a match with an unreadable
    order is dropped. A row's value is 1 for the model, 0 for the baseline, 0.5 for a tie, in
    either order.
    """
    kept = rows if context.as_published else counted_once(rows)
    matches: dict[tuple[str, int, str, float], dict[int, Row]] = {}
    for row in kept:
        # A re-run has its own time, and counts again as published.
        when = row.created if context.as_published else 0.0
        matches.setdefault((row.item, row.turn, row.baseline, when), {})[row.order] = row
    judged: list[tuple[Row, float, float]] = []
    for sides in matches.values():
        pair = [sides.get(order) for order in (0, 1)]
        if any(row is None or row.status != OK or row.value is None for row in pair):
            continue
        first, second = pair[0], pair[1]
        assert first is not None and second is not None
        outcome = outcome_of([first.value or 0.0, second.value or 0.0])
        judged.append((first, outcome, float(first.value != second.value)))
    dropped = len(matches) - len(judged)
    readings: dict[str, Callable[[float, float], float]] = {
        "win_rate": lambda outcome, _: float(outcome == 1),
        "loss_rate": lambda outcome, _: float(outcome == 0),
        "tie_rate": lambda outcome, _: float(outcome == 0.5),
        "win_rate_adjusted": lambda outcome, _: outcome,
        "order_flip_rate": lambda _, flipped: flipped,
    }
    scores = []
    for name, reading in readings.items():
        table: dict[str, list[float]] = {}
        for row, outcome, flipped in judged:
            cell = table.setdefault(row.item, [0.0, 0.0])
            cell[0] += reading(outcome, flipped)
            cell[1] += 1
        interval = ratio_interval(
            [cell[0] for cell in table.values()],
            [cell[1] for cell in table.values()],
            bounds=SHARE.bounds,
        )
        scores.append(metric_value(name, interval, len(judged), dropped))
    return scores


def score_user_bench(rows: Sequence[Row], context: ScoreContext) -> list[MetricValue]:
    """Score a user's own benchmark: exact metrics, ratings or preferences, by its rows."""
    expected = [row for row in rows if row.metric == EXPECTED_RATING]
    if expected:
        others = [row for row in rows if row.metric != EXPECTED_RATING]
        return [*(score_user_bench(others, context) if others else []), *score_expected(expected)]
    metrics = {row.metric for row in rows}
    if metrics <= {"preference"}:
        return score_alpaca_eval_2(rows, ScoreContext(note={"own_items": True}))
    if metrics <= {"rating"}:
        return score_ratings(rows, context)
    if "rating" in metrics:
        # From 1 to 10 and from 0 to 1: a mean of both, or of a category of both, says nothing.
        kept = counted_once(rows)
        return [
            measure(
                name,
                [row for row in kept if row.metric == name],
                RATING.bounds if name == "rating" else SHARE.bounds,
            )
            for name in ("rating", *sorted(metrics - {"rating"}))
        ]
    scores = score_exact(rows, context)
    if len(metrics) > 1:
        kept = counted_once(rows)
        scores += [
            measure(name, [row for row in kept if row.metric == name], SHARE.bounds)
            for name in sorted(metrics)
        ]
    return scores
