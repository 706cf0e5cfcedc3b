"""Stored judgments -> figures. One pure function a benchmark, no files of it needed."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import replace

from kdharness.harness.score_rows import OK, Row, ScoreContext, counted_once
from kdharness.harness.scoring import Interval, ratio_interval
from kdharness.harness.types import MetricValue

Bounds = tuple[float, float]
UNIT: Bounds = (0.0, 1.0)
RATING: Bounds = (1.0, 10.0)
LEAST_FOR_LENGTH = 20
"""Rows below which a length-controlled fit says nothing."""


def sums(
    rows: Iterable[Row], value: Callable[[Row], float] | None = None
) -> dict[str, list[float]]:
    """Question -> [sum of values, sum of weights] over the rows that hold a verdict."""
    table: dict[str, list[float]] = {}
    for row in rows:
        if row.status != OK or row.value is None:
            continue
        cell = table.setdefault(row.item, [0.0, 0.0])
        cell[0] += row.value if value is None else value(row)
        cell[1] += row.weight
    return table


def measure(
    name: str,
    rows: Sequence[Row],
    bounds: Bounds | None,
    *,
    value: Callable[[Row], float] | None = None,
    scale: float = 1.0,
    flags: tuple[str, ...] = (),
) -> MetricValue:
    """The weighted mean of some rows, with its interval over questions."""
    table = sums(rows, value)
    n = sum(1 for row in rows if row.status == OK)
    found = ratio_interval(
        [cell[0] for cell in table.values()], [cell[1] for cell in table.values()], bounds=bounds
    )
    return metric_value(name, found, n, len(rows) - n, scale=scale, flags=flags)


def metric_value(
    name: str,
    found: Interval | None,
    n: int,
    n_failed: int,
    *,
    scale: float = 1.0,
    flags: tuple[str, ...] = (),
) -> MetricValue:
    """An interval as a figure; no interval is no figure."""
    if found is None:
        return MetricValue(name, None, None, None, n, n_failed, flags)
    return MetricValue(
        name, found.value * scale, found.low * scale, found.high * scale, n, n_failed, flags
    )


def by_category(rows: Sequence[Row]) -> dict[str, list[Row]]:
    """Rows of each category, in the order they first appear by name."""
    table: dict[str, list[Row]] = {}
    for row in rows:
        table.setdefault(row.category, []).append(row)
    return dict(sorted(table.items()))


def score_ratings(rows: Sequence[Row], context: ScoreContext) -> list[MetricValue]:
    """MT-Bench single grading.

    `score` is the mean over all rated rows (not the mean of the two turns' means), as FastChat
    prints it.
    """
    rows = _as_stored(rows) if context.as_published else counted_once(rows)
    figures = [measure("score", rows, RATING)]
    for turn in sorted({row.turn for row in rows}):
        figures.append(measure(f"turn_{turn}", [r for r in rows if r.turn == turn], RATING))
    categories = by_category(rows)
    if len(categories) > 1 or "" not in categories:
        figures += [measure(f"category:{c}", part, RATING) for c, part in categories.items()]
    return figures


def _as_stored(rows: Sequence[Row]) -> list[Row]:
    """Rows with the scores that FastChat averages: those out of range too."""
    return [
        row._replace(status=OK, value=float(row.details["published"]))
        if row.status != OK and '"published"' in row.info
        else row
        for row in rows
    ]


def score_exact(rows: Sequence[Row], context: ScoreContext) -> list[MetricValue]:
    """Exact metrics in 0-1: the mean over rows, and each category's."""
    rows = counted_once(rows)
    figures = [measure("score", rows, UNIT)]
    categories = by_category(rows)
    if len(categories) > 1 or "" not in categories:
        figures += [measure(f"category:{c}", part, UNIT) for c, part in categories.items()]
    return figures


def score_heldout(rows: Sequence[Row], context: ScoreContext) -> list[MetricValue]:
    """Nats a labelled token (loss, kl) and the share of tokens agreed on."""
    figures = []
    kept = counted_once(rows)
    for name in dict.fromkeys(row.metric for row in kept):
        part = [row for row in kept if row.metric == name]
        bounds = UNIT if name.endswith("_agreement") else None
        figures.append(measure(name, part, bounds))
    return figures


def score_preferences(rows: Sequence[Row], context: ScoreContext) -> list[MetricValue]:
    """AlpacaEval: the win rate and its company. A preference is 1-2; p = preference - 1."""
    import numpy as np

    rows = rows if context.as_published else counted_once(rows)
    good = [row for row in rows if row.status == OK and row.value is not None]
    failed = len(rows) - len(good)
    n = len(good)
    p = np.array([row.value for row in good], dtype=np.float64) - 1
    wins, losses = int((p > 0.5).sum()), int((p < 0.5).sum())
    draws = n - wins - losses
    rate = measure("win_rate", rows, UNIT, value=lambda row: (row.value or 0.0) - 1, scale=100)
    figures = [
        # The mean in numpy's own order of summing: the published figure to its last digit.
        replace(rate, value=float(p.mean()) * 100) if n else rate,
        measure("discrete_win_rate", rows, UNIT, value=_discrete, scale=100),
    ]
    error = float(100 * np.std(p, ddof=1) / np.sqrt(n)) if n > 1 else None
    lengths = [int(row.details["len_2"]) for row in rows if "len_2" in row.details]
    plain: dict[str, float | None] = {
        "standard_error": error,
        "n_wins": wins if n else None,
        "n_wins_base": losses if n else None,
        "n_draws": draws if n else None,
        "n_total": n,
        # Whole characters, as the published tables have it.
        "avg_length": int(sum(lengths) / len(lengths)) if lengths else None,
    }
    return figures + [
        MetricValue(name, value, None, None, n, failed) for name, value in plain.items()
    ]


def _discrete(row: Row) -> float:
    """1 for a win, 0 for a loss, a half for a draw."""
    value = row.value or 0.0
    return 1.0 if value > 1.5 else 0.0 if value < 1.5 else 0.5


def score_alpaca_eval_2(rows: Sequence[Row], context: ScoreContext) -> list[MetricValue]:
    """Version 2 adds the length-controlled win rate."""
    return score_preferences(rows, context) + length_controlled(rows, context)


def length_controlled(rows: Sequence[Row], context: ScoreContext) -> list[MetricValue]:
    """The official variant where its files are, else the difficulty-free one, named so."""
    import numpy as np
    from kdharness.judges import length_control as lc

    rows = rows if context.as_published else counted_once(rows)
    known = [(row, row.details) for row in rows]
    known = [(row, info) for row, info in known if "len_1" in info and not info.get("absent")]
    good = [row.status == OK and row.value is not None for row, _ in known]
    values = [(row.value or 0.0) - 1 for row, _ in known]
    p = np.where(good, values, np.nan)
    n = int((~np.isnan(p)).sum()) if len(p) else 0
    failed = len(rows) - n
    if n < LEAST_FOR_LENGTH or float(np.nanmin(p)) == float(np.nanmax(p)):
        return []
    len_1 = np.array([info["len_1"] for _, info in known], dtype=np.float64)
    len_2 = np.array([info["len_2"] for _, info in known], dtype=np.float64)
    files = [context.asset(lc.ASSET, name) for name in (lc.DIFFICULTY_FILE, lc.GAMED_FILE)]
    if files[0] is not None and files[1] is not None and not context.note.get("own_items"):
        table = lc.read_difficulty(files[0])
        places = [int(row.item) for row, _ in known]
        if context.as_published:
            # Upstream counts rows, so that difficulties shift behind a missing one.
            order = {place: index for index, place in enumerate(sorted(set(places)))}
            places = [order[place] for place in places]
        result = lc.official(p, len_1, len_2, table[places], lc.read_gamed(files[1]))
    else:
        result = lc.difficulty_free(p, len_1, len_2)
    flags = (f"lc:{result.variant}", f"C={result.c:.6g}")
    figures = [metric_value("length_controlled_winrate", result.rate, n, failed, flags=flags)]
    if result.variant == "official":
        figures.append(
            MetricValue("lc_standard_error", result.spread, None, None, n, failed, flags)
        )
    return figures


def score_pairs(rows: Sequence[Row], context: ScoreContext) -> list[MetricValue]:
    """Pairwise MT-Bench: a match is one turn against one baseline, judged in both orders.

    A win counts only if both orders agree; everything else is a tie; a match with an unreadable
    side is dropped. A row's value is 1 for the model, 0 for the baseline, 0.5 for a tie,
    whatever the order it was shown in.
    """
    kept = rows if context.as_published else counted_once(rows)
    matches: dict[tuple[str, int, str, float], dict[int, Row]] = {}
    for row in kept:
        # A re-run has a time of its own, and counts again as published.
        when = row.created if context.as_published else 0.0
        matches.setdefault((row.item, row.turn, row.baseline, when), {})[row.order] = row
    judged: list[tuple[Row, float, float]] = []
    for sides in matches.values():
        pair = [sides.get(order) for order in (0, 1)]
        if any(row is None or row.status != OK or row.value is None for row in pair):
            continue
        first, second = pair[0], pair[1]
        assert first is not None and second is not None
        agreed = first.value == second.value and first.value in (0.0, 1.0)
        outcome = (first.value or 0.0) if agreed else 0.5
        judged.append((first, outcome, float(first.value != second.value)))
    dropped = len(matches) - len(judged)
    readings: dict[str, Callable[[float, float], float]] = {
        "win_rate": lambda outcome, _: float(outcome == 1),
        "loss_rate": lambda outcome, _: float(outcome == 0),
        "tie_rate": lambda outcome, _: float(outcome == 0.5),
        "win_rate_adjusted": lambda outcome, _: outcome,
        "order_flip_rate": lambda _, flipped: flipped,
    }
    figures = []
    for name, reading in readings.items():
        table: dict[str, list[float]] = {}
        for row, outcome, flipped in judged:
            cell = table.setdefault(row.item, [0.0, 0.0])
            cell[0] += reading(outcome, flipped)
            cell[1] += 1
        found = ratio_interval(
            [cell[0] for cell in table.values()], [cell[1] for cell in table.values()], bounds=UNIT
        )
        figures.append(metric_value(name, found, len(judged), dropped))
    return figures


def score_user_bench(rows: Sequence[Row], context: ScoreContext) -> list[MetricValue]:
    """A user's own benchmark: exact metrics, ratings or preferences, by what its rows hold."""
    metrics = {row.metric for row in rows}
    if metrics <= {"preference"}:
        return score_preferences(rows, context) + length_controlled(
            rows, ScoreContext(note={"own_items": True})
        )
    if metrics <= {"rating"}:
        return score_ratings(rows, context)
    figures = score_exact(rows, context)
    if len(metrics) > 1:
        kept = counted_once(rows)
        figures += [
            measure(name, [row for row in kept if row.metric == name], UNIT)
            for name in sorted(metrics)
        ]
    return figures
