"""The answer on top of Leaderboard and Trade-off, and a point of the trade-off in numbers."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from kdharness.harness.analysis.answer import Answer, home_answer, statistics_of
from kdharness.harness.analysis.tradeoff import (
    Axis,
    TradeOffPoint,
    TradeOffView,
    trade_off_view,
)
from kdharness.harness.analysis.tradeoff_groups import TradeOffStatistics
from kdharness.harness.errors import ConfigError
from kdharness.harness.paths import Paths
from kdharness.harness.store import Store
from kdharness.harness.types import Score
from kdharness.harness.util.text import figure, safe_text
from kdharness.tui.viewmodels.drawings import Block, IntervalLine
from kdharness.tui.viewmodels.leaderboard import leading
from kdharness.tui.viewmodels.rows import Line

if TYPE_CHECKING:
    from kdharness.harness.stats.inference import Interval
    from kdharness.harness.stats.tradeoff import PointStats


@dataclass(frozen=True)
class Answered:
    """An answer, and the statistics of the trade-off that gave it."""

    answer: Answer
    found: TradeOffStatistics | None = None


def board_answer(
    store: Store, paths: Paths, scores: Sequence[Score], primary: Mapping[str, str], keep: float
) -> Answered:
    """Return the answer of the scores of a leaderboard."""
    lead = [label for label in leading(scores, primary) if label]
    stored = {f"{score.bench}:{score.metric}" for score in scores}
    axes = {axis: label for axis, label in primary.items() if label in stored}
    try:
        view = trade_off_view(
            store, paths, axes.get("general"), axes.get("domain"), None, None, scores
        )
    except ConfigError:
        view = None
    return view_answer(store, scores, view, keep, lead[0] if lead else _first(scores))


def _first(scores: Sequence[Score]) -> str:
    """Return the metric that most checkpoints have, where none leads."""
    counts: dict[str, int] = {}
    for score in scores:
        if score.value is not None:
            label = f"{score.bench}:{score.metric}"
            counts[label] = counts.get(label, 0) + 1
    return max(counts, key=lambda label: counts[label], default="")


def view_answer(
    store: Store, scores: Sequence[Score], view: TradeOffView | None, keep: float, label: str
) -> Answered:
    """Return the answer of a trade-off, or who is best on one metric where it says nothing."""
    found = statistics_of(store, view, keep) if view is not None else None
    return Answered(home_answer(store, scores, view, found, label), found)


# ---------------------------------------------------------------- one point


def point_overview(
    item: TradeOffPoint, view: TradeOffView, found: TradeOffStatistics | None
) -> list[Block]:
    """Return a point's scores, gain and retention with their intervals."""
    point = item.point
    front = "● on the Pareto front" if item.on_front else "○ not on the Pareto front"
    lines: list[Block] = [
        [(safe_text(point.checkpoint, 60), "strong"), (f"  {point.method}", "dim")],
        [(front, "good" if item.on_front else "dim")],
        _score("general", view.general, point.general, point.general_interval),
        _score("domain", view.domain, point.domain, point.domain_interval),
    ]
    stats = {known.checkpoint: known for known in found.points} if found else {}
    known = stats.get(point.checkpoint)
    if known is None or found is None:
        return lines
    everyone = list(stats.values())
    lines += [
        *_share("gain", known.gain, [one.gain for one in everyone], view.roles.expert or ""),
        *_share(
            "retention",
            known.retention,
            [one.retention for one in everyone],
            view.roles.reference or "",
        ),
        *_share("above WiSE-FT", known.above_curve, [one.above_curve for one in everyone], ""),
    ]
    return [*lines, *_settled(known, found)]


def _score(name: str, axis: Axis, value: float, ends: tuple[float | None, float | None]) -> Line:
    interval = f" [{figure(ends[0])}, {figure(ends[1])}]" if None not in ends else ""
    arrow = " ↓" if axis.lower_is_better else ""
    return [
        (f"{name:<10}", "dim"),
        (figure(value), "strong"),
        (interval, ""),
        (safe_text(f"  {axis.label}{arrow}", 60), "dim"),
    ]


def _share(
    name: str, share: Interval | None, everyone: Sequence[Interval | None], whose: str
) -> list[Block]:
    if share is None:
        return []
    head: Line = [(f"{name:<10} ", "dim"), (f"{share.value:>z6.1%} ", "strong")]
    if share.low is None or share.high is None:
        return [[*head, (f"n {share.n}: too few for an interval", "dim")]]
    ends = [
        end
        for one in everyone
        if one is not None
        for end in (one.low, one.value, one.high)
        if end is not None
    ]
    tail: Line = [(f"[{share.low:z.1%}, {share.high:z.1%}]", "")]
    extra = f"of {whose}" if whose else ""
    low, high = min(ends), max(ends)
    return [IntervalLine(head, (share.low, share.value, share.high), low, high, tail, extra=extra)]


def _settled(known: PointStats, found: TradeOffStatistics) -> list[Block]:
    """Return whether a checkpoint gains and retains what was asked for, significantly."""
    verdict = found.verdict
    if verdict is None or known.retention is None:
        return []
    sure = {one.checkpoint for one in verdict.leaders} | {*verdict.behind}
    perhaps = {one.checkpoint for one in verdict.perhaps}
    if known.checkpoint in sure:
        verdict_text = f"gains significantly, retains {verdict.keep:g}"
    elif known.checkpoint in perhaps:
        verdict_text = f"gains significantly; retention of {verdict.keep:g} inconclusive"
    else:
        verdict_text = f"no significant gain at retention {verdict.keep:g}"
    return [[(verdict_text, "accent")]]
