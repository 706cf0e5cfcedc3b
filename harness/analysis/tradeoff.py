"""The trade-off between domain gain and general retention: pure functions.

See docs/method.md#trade-off. With D the domain score and G the general one, both oriented so that
higher is better:

    gain       (D − D_ref) / (D_expert − D_ref)      0: the reference, 1: the whole expert
    retention  G / G_ref for scores, G_ref / G for losses      1: nothing lost

The Pareto front is computed on the two scores themselves, the hypervolume on (retention, gain)
above a floor.
"""

from __future__ import annotations

import math
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import product
from typing import TYPE_CHECKING, Any, NamedTuple

from kdharness.harness.analysis.leaderboard import leaderboard
from kdharness.harness.analysis.metrics import is_lower_better
from kdharness.harness.errors import ConfigError
from kdharness.harness.paths import Paths
from kdharness.harness.stats.metric_specs import EXPECTED_RATING
from kdharness.harness.stats.pareto import gain, hypervolume, pareto_front, retention
from kdharness.harness.store import Store
from kdharness.harness.types import Score

if TYPE_CHECKING:
    from kdharness.harness.stats.tradeoff import PointStats


@dataclass(frozen=True)
class Axis:
    """One score of the leaderboard as an axis."""

    bench: str
    metric: str
    lower_is_better: bool

    @property
    def label(self) -> str:
        """`bench:metric`, as the options expect it."""
        return f"{self.bench}:{self.metric}"

    def oriented(self, value: float) -> float:
        """Return the value oriented so that higher is better."""
        return -value if self.lower_is_better else value


@dataclass(frozen=True)
class Point:
    """One checkpoint on both axes, in the axes' own units, with intervals where known."""

    checkpoint: str
    method: str
    general: float
    domain: float
    general_interval: tuple[float | None, float | None] = (None, None)
    domain_interval: tuple[float | None, float | None] = (None, None)


@dataclass(frozen=True)
class TradeOffPoint:
    """A point with its gain and retention; None where undefined."""

    point: Point
    gain: float | None
    retention: float | None
    on_front: bool


class Roles(NamedTuple):
    """The reference and the expert checkpoint; None where unknown."""

    reference: str | None
    expert: str | None


class TradeOffView(NamedTuple):
    """Both axes, the points on them, and the reference and expert."""

    general: Axis
    domain: Axis
    points: list[TradeOffPoint]
    roles: Roles


def place(
    points: Sequence[Point],
    general: Axis,
    domain: Axis,
    reference: str | None,
    expert: str | None,
) -> list[TradeOffPoint]:
    """Compute gain, retention and front membership of every point.

    Args:
        points: the checkpoints that have both scores.
        general, domain: the axes.
        reference, expert: names among the points; without one, values that need it are None.
    """
    by_name = {point.checkpoint: point for point in points}
    base, best = by_name.get(reference or ""), by_name.get(expert or "")
    front = pareto_front([(general.oriented(p.general), domain.oriented(p.domain)) for p in points])
    placed = []
    for point, on_front in zip(points, front, strict=True):
        gained = kept = None
        if base is not None:
            kept = retention(point.general, base.general, lower_is_better=general.lower_is_better)
        if base is not None and best is not None:
            gained = gain(point.domain, base.domain, best.domain)
        placed.append(TradeOffPoint(point, gained, kept, on_front))
    return placed


def on_shared_questions(
    points: Sequence[TradeOffPoint], found: Iterable[PointStats]
) -> list[TradeOffPoint]:
    """Take gain and retention from the questions that reference and expert answered, too."""
    partial = {one.checkpoint: one for one in found if one.partial}
    return [
        replace(
            point,
            gain=here.gain.value if here.gain else None,
            retention=here.retention.value if here.retention else None,
        )
        if (here := partial.get(point.point.checkpoint))
        else point
        for point in points
    ]


def dominated_area(
    placed: Sequence[TradeOffPoint], floor: tuple[float, float] = (0.0, 0.0)
) -> float | None:
    """Return the hypervolume of (retention, gain); None without a reference or expert."""
    pairs = [(p.retention, p.gain) for p in placed]
    known = [(r, g) for r, g in pairs if r is not None and g is not None]
    finite = [(r, g) for r, g in known if math.isfinite(r) and math.isfinite(g)]
    return hypervolume(finite, floor) if finite else None


# Of the defaults that most checkpoints share, the first is chosen.
GENERAL_DEFAULTS = (
    "heldout:other_writer_loss",
    "heldout:general_loss",
    "ifeval:prompt_strict",
    "mt-bench:score",
    f"mt-bench:{EXPECTED_RATING}",
    "alpaca-eval-2:win_rate",
    "arena-hard-v2:hard_prompt",
)
DOMAIN_DEFAULTS = ("shop:score", "heldout:domain_loss")


def placed_row(item: TradeOffPoint) -> dict[str, Any]:
    """Return a point as the stable row of `tradeoff --format json`."""
    return {
        "checkpoint": item.point.checkpoint,
        "method": item.point.method,
        "general": item.point.general,
        "domain": item.point.domain,
        "gain": item.gain,
        "retention": item.retention,
        "on_front": item.on_front,
    }


def trade_off_view(
    store: Store,
    paths: Paths,
    general: str | None,
    domain: str | None,
    reference: str | None,
    expert: str | None,
    scores: Sequence[Score] | None = None,
) -> TradeOffView:
    """Read axes, points and roles from the store.

    Args:
        scores: the leaderboard, if it was read before.

    Raises:
        ConfigError: an axis for which no checkpoint has a score, or a checkpoint without scores.
    """
    scores = leaderboard(store, paths) if scores is None else scores
    x, y = choose_axes(scores, general, domain)
    points = collect_points(scores, x, y)
    parts = roles(store, {point.checkpoint for point in points}, reference, expert)
    return TradeOffView(x, y, place(points, x, y, *parts), parts)


def choose_axes(
    scores: Sequence[Score], general: str | None, domain: str | None
) -> tuple[Axis, Axis]:
    """Return the axes; of the defaults, those with the most checkpoints on the chart.

    Ties go to the defaults that are listed first. An axis is never compared with itself by
    default, unless it is the only one.

    Raises:
        ConfigError: an axis for which no checkpoint has a score.
    """
    scored: dict[str, set[str]] = {}
    for score in scores:
        checkpoints = scored.setdefault(f"{score.bench}:{score.metric}", set())
        if score.value is not None:
            checkpoints.add(score.checkpoint)
    xs = _candidates(scored, general, GENERAL_DEFAULTS, "general")
    ys = _candidates(scored, domain, DOMAIN_DEFAULTS, "domain")
    # Of several equals, max returns the first.
    y, x = max(product(ys, xs), key=lambda pair: (pair[0] != pair[1], _shared(scored, pair)))
    return axis_of(x), axis_of(y)


def _candidates(
    stored: Collection[str], wanted: str | None, defaults: Sequence[str], name: str
) -> list[str]:
    """Return the labels that an axis may have: the requested one, or every stored default."""
    labels = list(defaults) if wanted is None else [wanted]
    if wanted is not None and ":" not in wanted:
        labels = [axis for axis in stored if axis.startswith(f"{wanted}:")][:1]
    if found := [label for label in labels if label in stored]:
        return found
    names = ", ".join(stored) or "none yet; run: kdharness eval --ckpt PATH"
    raise ConfigError(
        f"no checkpoint has {wanted or 'a score'} for the {name} axis",
        where=f"--{name}",
        hint=f"available: {names}",
    )


def _shared(scored: Mapping[str, set[str]], pair: tuple[str, str]) -> int:
    """Return the number of checkpoints with both scores."""
    return len(scored[pair[0]] & scored[pair[1]])


def axis_of(label: str) -> Axis:
    """Return the axis of a metric, named as BENCH:METRIC."""
    bench, _, metric = label.partition(":")
    return Axis(bench, metric, is_lower_better(metric))


def best_scores(scores: Iterable[Score], axis: Axis) -> dict[str, Score]:
    """Return each checkpoint's score on an axis; of several judges, the one with the most rows."""
    best: dict[str, Score] = {}
    for score in scores:
        if (score.bench, score.metric) != (axis.bench, axis.metric) or score.value is None:
            continue
        known = best.get(score.checkpoint)
        if known is None or score.n > known.n:
            best[score.checkpoint] = score
    return best


def collect_points(scores: Sequence[Score], x: Axis, y: Axis) -> list[Point]:
    """Return the checkpoints with both scores."""
    general, domain = best_scores(scores, x), best_scores(scores, y)
    points = []
    for name in dict.fromkeys(score.checkpoint for score in scores):
        g, d = general.get(name), domain.get(name)
        if g is None or d is None or g.value is None or d.value is None:
            continue
        points.append(
            Point(name, g.method, g.value, d.value, (g.ci_low, g.ci_high), (d.ci_low, d.ci_high))
        )
    return points


def canonical_name(store: Store, name: str) -> str:
    """Return the name that a checkpoint has in scores; other names as they are."""
    checkpoint = store.checkpoint(name)
    return checkpoint.name if checkpoint else name


def roles(store: Store, names: set[str], reference: str | None, expert: str | None) -> Roles:
    """Return the reference and expert: as given, else the parents of the newest DAE run.

    A run's name stands for its checkpoint, which has the name of an older run with equal weights.

    Raises:
        ConfigError: a name that is not among the points.
    """
    reference = reference and canonical_name(store, reference)
    expert = expert and canonical_name(store, expert)
    for name, option in ((reference, "--reference"), (expert, "--expert")):
        if name is not None and name not in names:
            raise ConfigError(
                f"{name!r} has no scores on these axes",
                where=option,
                hint=f"available: {', '.join(sorted(names))}",
            )
    by_id = {c.id: c.name for c in store.checkpoints()}
    for checkpoint in reversed(store.checkpoints()):
        if checkpoint.method != "dae":
            continue
        base = by_id.get(checkpoint.parents.get("reference", ""))
        best = by_id.get(checkpoint.parents.get("expert", ""))
        reference = reference or (base if base in names else None)
        expert = expert or (best if best in names else None)
    return Roles(reference, expert)
