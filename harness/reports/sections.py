"""Sections of the report that show scores: summary, board, plane, differences, categories."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING

from kdharness.harness.analysis.answer import answer_of
from kdharness.harness.analysis.compare import compare_all
from kdharness.harness.analysis.metrics import is_headline, ranked
from kdharness.harness.analysis.tradeoff import TradeOffPoint
from kdharness.harness.analysis.tradeoff_groups import TradeOff
from kdharness.harness.paths import Paths
from kdharness.harness.reports.blocks import (
    Block,
    Heading,
    IntervalPlot,
    Paragraph,
    PlotPoint,
    Radar,
    Scatter,
    Table,
    interval,
    number,
)
from kdharness.harness.stats.metric_specs import EXPECTED, category_of
from kdharness.harness.stats.rows import LEAST_FOR_VERDICT
from kdharness.harness.store import Store
from kdharness.harness.types import Score

if TYPE_CHECKING:
    from kdharness.harness.stats.inference import Interval

MOST_IN_A_PICTURE = 7


def summary_section(
    found: TradeOff | None, missing: str = "", scores: Sequence[Score] = ()
) -> Iterator[Block]:
    """Summarise which checkpoint to choose, and how certain the choice is.

    Args:
        found: the trade-off; without one, `missing` says why.
        scores: of the leaderboard, whose judges the answer names.
    """
    yield Heading("Summary")
    if found is None:
        yield Paragraph(f"No trade-off available yet: {missing}")
        return
    view, stats = found.view, found.statistics
    answer = answer_of(view, stats, scores)
    yield Paragraph(answer.who)
    if answer.basis:
        yield Paragraph(answer.basis)
    yield Paragraph(
        f"General score: {view.general.label}. Domain score: {view.domain.label}. Reference: "
        f"{view.roles.reference or 'unknown'}; expert: {view.roles.expert or 'unknown'}."
    )
    sides: dict[str, list[str]] = {}
    for point in stats.points:
        if point.above_curve is not None:
            sides.setdefault(_side(point.above_curve), []).append(point.checkpoint)
    if sides:
        words = "; ".join(f"{side}: {', '.join(names)}" for side, names in sorted(sides.items()))
        yield Paragraph(f"Against the WiSE-FT curve, {words}.")
    for note in stats.notes:
        yield Paragraph(f"Note: {note}.")


def _side(above: Interval) -> str:
    """Return on which side of the curve a point significantly lies."""
    if above.n >= LEAST_FOR_VERDICT:
        if above.low is not None and above.low > 0:
            return "significantly above"
        if above.high is not None and above.high < 0:
            return "significantly below"
    return "not significantly above or below"


def board_section(scores: Sequence[Score]) -> Iterator[Block]:
    """Show the headline scores as a table and as interval plots."""
    yield Heading("Leaderboard", folded=True)
    shown = ranked([s for s in scores if is_headline(s.metric)])
    if not shown:
        yield Paragraph("No scores yet.")
        return
    yield Paragraph(
        "Intervals are 95 % over questions. Scores with overlapping intervals may still differ "
        "significantly in a paired comparison; see the differences."
    )
    yield Table(
        ("bench", "metric", "checkpoint", "value", "n", "failed", "judge", "flags"),
        tuple(
            (
                s.bench,
                s.metric,
                s.checkpoint,
                interval(s.value, s.ci_low, s.ci_high),
                str(s.n),
                str(s.n_failed),
                s.judge,
                " ".join(s.flags),
            )
            for s in shown
        ),
    )
    groups: dict[tuple[str, str, str], list[Score]] = {}
    for score in shown:
        groups.setdefault((score.bench, score.metric, score.judge), []).append(score)
    for (bench, metric, judge), rows in groups.items():
        known = [s for s in rows if s.value is not None]
        if len(known) > 1:
            yield IntervalPlot(
                f"{bench} {metric} ({judge})",
                tuple((s.checkpoint, float(s.value or 0.0), s.ci_low, s.ci_high) for s in known),
            )


def plane_picture(found: TradeOff | None) -> Iterator[Block]:
    """Draw general against domain scores."""
    if found is None:
        return
    view, stats = found.view, found.statistics
    points = {item.point.checkpoint: item.point for item in view.points}
    chain = [view.roles.reference, *stats.curve, view.roles.expert] if stats.curve else []
    line = tuple((points[n].general, points[n].domain) for n in chain if n in points)
    axes = [
        axis.label + (" (lower is better)" if axis.lower_is_better else "")
        for axis in (view.general, view.domain)
    ]
    yield Scatter(
        "General against domain score; squares are on the Pareto front",
        axes[0],
        axes[1],
        tuple(_mark(item) for item in view.points),
        line,
        "WiSE-FT curve",
    )


def plane_section(found: TradeOff | None) -> Iterator[Block]:
    """Show gain and retention as a table with intervals."""
    if found is None:
        return
    yield Heading("Trade-off in numbers", folded=True)
    view, stats = found.view, found.statistics
    by_name = {point.checkpoint: point for point in stats.points}
    rows = []
    for item in view.points:
        known = by_name.get(item.point.checkpoint)
        rows.append(
            (
                item.point.checkpoint,
                item.point.method,
                number(item.point.general),
                number(item.point.domain),
                interval_cell(known.gain) if known else number(item.gain),
                interval_cell(known.retention) if known else number(item.retention),
                interval_cell(known.above_curve if known else None),
                "yes" if item.on_front else "no",
            )
        )
    yield Table(
        (
            "checkpoint",
            "method",
            "general",
            "domain",
            "gain",
            "retention",
            "above WiSE-FT",
            "on front",
        ),
        tuple(rows),
        "gain: 0 is the reference, 1 the expert; 95 % intervals over questions",
    )
    if stats.hypervolume:
        yield Paragraph(f"Hypervolume of (retention, gain): {interval_cell(stats.hypervolume)}.")
    if stats.recipes:
        yield Table(
            ("recipe", "seeds", "value", "over questions", "over seeds"),
            tuple(
                (
                    recipe.recipe,
                    str(len(recipe.checkpoints)),
                    recipe.figure,
                    interval_cell(recipe.questions),
                    interval_cell(recipe.seeds),
                )
                for recipe in stats.recipes
            ),
            "means over seeds; each interval covers one source of variance only",
        )


def _mark(item: TradeOffPoint) -> PlotPoint:
    point = item.point

    def ends(pair: tuple[float | None, float | None]) -> tuple[float, float] | None:
        low, high = pair
        return (low, high) if low is not None and high is not None else None

    return PlotPoint(
        point.checkpoint,
        point.general,
        point.domain,
        ends(point.general_interval),
        ends(point.domain_interval),
        item.on_front,
    )


def differences_section(store: Store, paths: Paths, found: TradeOff | None) -> Iterator[Block]:
    """Compare every checkpoint of the trade-off with the reference, in pairs."""
    reference = found.view.roles.reference if found else None
    if found is None or reference is None:
        return
    names = [i.point.checkpoint for i in found.view.points if i.point.checkpoint != reference]
    comparisons = compare_all(store, paths, [reference, *names]) if names else []
    rows = tuple(
        (
            c.other,
            c.bench,
            c.metric,
            interval(c.gap.value, c.gap.low, c.gap.high),
            number(c.p_holm),
            c.verdict,
        )
        for c in comparisons
        if is_headline(c.metric)
    )
    if rows:
        yield Heading("Differences from the reference", folded=True)
        yield Table(
            ("checkpoint", "bench", "metric", "difference", "p (Holm)", "verdict"),
            rows,
            f"paired with {reference} over the questions both answered; p is corrected for all "
            "comparisons on the same benchmark, including categories",
        )


def categories_section(scores: Sequence[Score]) -> Iterator[Block]:
    """Show each benchmark's categories, one row per checkpoint."""
    groups: dict[tuple[str, str, str], dict[str, dict[str, Score]]] = {}
    for score in scores:
        category = category_of(score.metric)
        if category is not None and score.value is not None:
            protocol = EXPECTED if score.metric.startswith(EXPECTED) else ""
            table = groups.setdefault((score.bench, score.judge, protocol), {})
            table.setdefault(score.checkpoint, {})[category] = score
    if groups:
        yield Heading("Categories", folded=True)
    for (bench, by, protocol), table in groups.items():
        judge = f"{by}, expected ratings" if protocol else by
        categories = tuple(dict.fromkeys(c for row in table.values() for c in row))
        title = f"{bench} by category ({judge})"
        yield Table(
            ("checkpoint", *categories),
            tuple(
                (
                    name,
                    *(
                        interval(row[c].value, row[c].ci_low, row[c].ci_high) if c in row else "–"
                        for c in categories
                    ),
                )
                for name, row in table.items()
            ),
            title,
        )
        for category in categories:
            yield IntervalPlot(
                f"{bench}, {category} ({judge})",
                tuple(
                    (
                        name,
                        float(row[category].value or 0.0),
                        row[category].ci_low,
                        row[category].ci_high,
                    )
                    for name, row in table.items()
                    if category in row
                ),
            )
        if len(categories) < 3:
            continue
        shown = [s.value for row in table.values() for s in row.values() if s.value is not None]
        values = [value for value in shown if math.isfinite(value)]
        low, high = (1.0, 10.0) if bench == "mt-bench" else (min(0.0, *values), max(1.0, *values))
        entries = [
            (name, tuple(row[c].value if c in row else None for c in categories))
            for name, row in table.items()
        ]
        for start in range(0, len(entries), MOST_IN_A_PICTURE):
            part = tuple(entries[start : start + MOST_IN_A_PICTURE])
            yield Radar(title, categories, part, low, high)


def two_to_show(found: TradeOff | None, scores: Sequence[Score]) -> tuple[str, str] | None:
    """Return the reference and the picked checkpoint (else the expert), or the first two."""
    if found is not None:
        reference, expert = found.view.roles
        other = found.pick
        if other is None or other == reference:
            other = expert
        if reference and other and reference != other:
            return reference, other
    names = list(dict.fromkeys(score.checkpoint for score in scores))
    return (names[0], names[1]) if len(names) > 1 else None


def interval_cell(estimate: Interval | None) -> str:
    """Format an estimate with its interval; None is a dash."""
    return interval(estimate.value, estimate.low, estimate.high) if estimate else "–"
