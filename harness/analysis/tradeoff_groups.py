"""Inputs of the trade-off statistics, read from the store: rows, curve, seeds of a recipe."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from kdharness.harness import stats
from kdharness.harness.analysis.scorebook import Group, groups_of, read_group
from kdharness.harness.analysis.series import Series, series_of
from kdharness.harness.analysis.tradeoff import (
    Axis,
    TradeOffPoint,
    TradeOffView,
    dominated_area,
    on_shared_questions,
    placed_row,
    trade_off_view,
)
from kdharness.harness.paths import Paths
from kdharness.harness.stats.rows import Sums, sums_of_score
from kdharness.harness.store import Store
from kdharness.harness.types import Checkpoint, Score, digest

if TYPE_CHECKING:
    from kdharness.harness.stats.answer import Verdict
    from kdharness.harness.stats.inference import Interval
    from kdharness.harness.stats.plane import AnsweredItems, Draws, Plane
    from kdharness.harness.stats.tradeoff import Pick, PointStats, RecipeStats, Stats


@dataclass(frozen=True)
class TradeOffStatistics:
    """Intervals of a trade-off over questions and seeds; empty without a reference.

    Attributes:
        points: gain, retention and distance above the curve, with intervals.
        hypervolume: of (retention, gain), with its interval.
        curve: the WiSE-FT merges between reference and expert, ordered by alpha.
        recipes: means over seeds.
        pick: the checkpoint to choose; None if none qualifies or none was asked for.
        keep: the retention asked for.
        notes: what is missing, and why.
        verdict: who gains most and retains enough, by corrected tests.
    """

    points: tuple[PointStats, ...] = ()
    hypervolume: Interval | None = None
    curve: tuple[str, ...] = ()
    recipes: tuple[RecipeStats, ...] = ()
    pick: Pick | None = None
    keep: float | None = None
    notes: tuple[str, ...] = ()
    verdict: Verdict | None = None

    def as_dict(self) -> dict[str, Any]:
        """Return the `statistics` of `tradeoff --format json`."""
        return {
            "points": {
                point.checkpoint: {
                    "gain": _ends(point.gain),
                    "retention": _ends(point.retention),
                    "above_curve": _ends(point.above_curve),
                }
                for point in self.points
            },
            "hypervolume": _ends(self.hypervolume),
            "curve": list(self.curve),
            "recipes": [
                {
                    "recipe": recipe.recipe,
                    "checkpoints": list(recipe.checkpoints),
                    "figure": recipe.figure,
                    "mean": recipe.mean,
                    "questions": _ends(recipe.questions),
                    "seeds": _ends(recipe.seeds),
                }
                for recipe in self.recipes
            ],
            "pick": {
                "checkpoint": self.pick.checkpoint,
                "min_retention": self.pick.min_retention,
                "sure": self.pick.sure,
                "rivals": list(self.pick.rivals),
            }
            if self.pick
            else None,
            "keep": self.keep,
            "notes": list(self.notes),
        }


def _ends(interval: Interval | None) -> dict[str, Any] | None:
    if interval is None:
        return None
    return {
        "value": interval.value,
        "ci_low": interval.low,
        "ci_high": interval.high,
        "n": interval.n,
    }


def _finite(interval: Interval) -> Interval:
    """Replace infinite ends by None: JSON has no infinity."""
    low, high = (
        None if end is None or not math.isfinite(end) else end
        for end in (interval.low, interval.high)
    )
    return replace(interval, low=low, high=high)


def statistics(
    store: Store, view: TradeOffView, floor: tuple[float, float], keep: float | None
) -> TradeOffStatistics:
    """Compute the statistics of a trade-off; see `stats.tradeoff`.

    Scores that are not a mean over questions (a length-controlled rate, a panel) have no
    intervals here; the notes name their checkpoints.
    """
    from kdharness.harness.stats.tradeoff import pick, trade_off_stats

    reference, expert = view.roles
    answered, left_out = read_answered(store, view.general, view.domain, view.points)
    names = [entry.checkpoint for entry in answered]
    notes = (
        [f"{', '.join(left_out)}: scores that are not a mean over questions have no intervals"]
        if left_out
        else []
    )
    if reference is None or reference not in names:
        notes.append("unknown reference: set it with --reference")
        return TradeOffStatistics(keep=keep, notes=tuple(notes))
    plane = _plane(store, view.general, view.domain, reference, expert, names, floor)
    found = trade_off_stats(answered, plane)
    return TradeOffStatistics(
        points=tuple(
            replace(
                point,
                gain=point.gain and _finite(point.gain),
                retention=point.retention and _finite(point.retention),
                above_curve=point.above_curve and _finite(point.above_curve),
            )
            for point in found.points
        ),
        hypervolume=found.hypervolume and _finite(found.hypervolume),
        curve=plane.curve,
        recipes=tuple(
            replace(recipe, questions=_finite(recipe.questions), seeds=_finite(recipe.seeds))
            for recipe in seeds_of(store, answered, plane, found)
        ),
        pick=pick(found, keep) if keep is not None else None,
        keep=keep,
        notes=(*notes, *found.notes),
        verdict=stats.verdict_at(found, reference, keep) if keep is not None else None,
    )


# ---------------------------------------------------------------- rows


def read_answered(
    store: Store, general: Axis, domain: Axis, placed: Sequence[TradeOffPoint]
) -> tuple[list[AnsweredItems], list[str]]:
    """Return every point's rows, and the names of points whose scores are not their rows' mean."""
    from kdharness.harness.stats.plane import AnsweredItems

    complete, left_out = [], []
    for item in placed:
        checkpoint = store.checkpoint(item.point.checkpoint)
        mine = groups_of(store, [checkpoint.id]) if checkpoint is not None else []
        sums = [
            sums_on_axis(store, mine, axis, value)
            for axis, value in ((general, item.point.general), (domain, item.point.domain))
        ]
        if sums[0] is None or sums[1] is None:
            left_out.append(item.point.checkpoint)
        else:
            complete.append(AnsweredItems(item.point.checkpoint, sums[0], sums[1]))
    return complete, left_out


def sums_on_axis(store: Store, groups: Sequence[Group], axis: Axis, value: float) -> Sums | None:
    """Return the rows by question whose mean is exactly this score."""
    for group in groups:
        if group.bench != axis.bench:
            continue
        sums = sums_of_score(read_group(store, group), axis.metric, value)
        if sums is not None:
            return sums
    return None


def _plane(
    store: Store,
    general: Axis,
    domain: Axis,
    reference: str,
    expert: str | None,
    names: Sequence[str],
    floor: tuple[float, float],
) -> Plane:
    from kdharness.harness.stats.plane import Plane

    return Plane(
        reference,
        expert if expert in names else None,
        general.lower_is_better,
        domain.lower_is_better,
        curve_between(store.checkpoints(), reference, expert, names),
        floor,
        _same_questions(general, domain),
    )


def _same_questions(general: Axis, domain: Axis) -> bool:
    """Return whether both axes use the same questions; each held-out set has its own."""
    if general.bench != domain.bench:
        return False
    sets = [axis.metric.rsplit("_", 1)[0] for axis in (general, domain)]
    return general.bench != "heldout" or sets[0] == sets[1]


def curve_between(
    checkpoints: Sequence[Checkpoint], reference: str, expert: str | None, names: Sequence[str]
) -> tuple[str, ...]:
    """Return the WiSE-FT merges of these two among the names, ordered by alpha."""
    ids = {checkpoint.name: checkpoint.id for checkpoint in checkpoints}
    ends = {"reference": ids.get(reference), "expert": ids.get(expert or "")}
    merges = [
        c
        for c in checkpoints
        if c.method == "merge" and "alpha" in c.info and c.parents == ends and c.name in names
    ]
    return tuple(c.name for c in sorted(merges, key=lambda c: float(c.info["alpha"])))


# ---------------------------------------------------------------- seeds


def recipe_of(store: Store, checkpoint: Checkpoint, depth: int = 0) -> str:
    """Return the identity of a checkpoint's recipe: its config without seeds and names.

    The name of another checkpoint in the config is replaced by that checkpoint's recipe.
    """
    run = store.run(checkpoint.run) if checkpoint.run else None
    if run is None or depth > 8:
        return checkpoint.id

    def plain(value: object) -> Any:
        if isinstance(value, Mapping):
            return {k: plain(v) for k, v in value.items() if k not in ("seed", "name")}
        if isinstance(value, list):
            return [plain(part) for part in value]
        if isinstance(value, str) and value:
            known = store.checkpoint(value)
            if known is not None and known.id != checkpoint.id:
                return recipe_of(store, known, depth + 1)
        return value

    return digest(plain(run.config), checkpoint.info.get("alpha"))


def _seed(store: Store, checkpoint: Checkpoint) -> object:
    run = store.run(checkpoint.run) if checkpoint.run else None
    return run.config.get("seed") if run is not None else None


def seeds_of(
    store: Store, answered: Sequence[AnsweredItems], plane: Plane, stats: Stats
) -> list[RecipeStats]:
    """Return mean gain and retention of every recipe with several seeds.

    Each seed is compared with the reference and expert of its own seed if there are any, else
    with those of the plane.
    """
    from kdharness.harness.stats.plane import draw_plane
    from kdharness.harness.stats.tradeoff import recipe_stats

    families: dict[str, dict[Any, str]] = {}
    seeds: dict[str, object] = {}
    recipes: dict[str, str] = {}
    for entry in answered:
        name = entry.checkpoint
        checkpoint = store.checkpoint(name)
        if checkpoint is None or checkpoint.run is None:
            continue
        seeds[name] = _seed(store, checkpoint)
        recipes[name] = recipe_of(store, checkpoint)
        families.setdefault(recipes[name], {})[seeds[name]] = name

    def own(role: str | None, seed: object) -> str | None:
        return families.get(recipes.get(role or "", ""), {}).get(seed, role)

    summaries = []
    planes: dict[tuple[str | None, str | None], Draws] = {
        (plane.reference, plane.expert): stats.draws
    }
    for members in families.values():
        if len(members) < 2:
            continue
        drawn = []
        for seed, name in members.items():
            ends = own(plane.reference, seed) or plane.reference, own(plane.expert, seed)
            if ends not in planes:
                planes[ends] = draw_plane(
                    answered, replace(plane, reference=ends[0], expert=ends[1])
                )
            drawn.append((name, planes[ends]))
        label = min(members.values(), key=lambda name: (len(name), name))
        for figure in ("gain", "retention"):
            summary = recipe_stats(label, drawn, figure)
            if summary is not None:
                summaries.append(summary)
    return summaries


@dataclass(frozen=True)
class TradeOff:
    """General against domain: the points and their statistics.

    Attributes:
        view: axes, points and roles.
        floor: reference point of the hypervolume, as (retention, gain).
        hypervolume: of (retention, gain); None without a reference or expert.
        statistics: intervals over questions and seeds.
        series: lines through the points, along settings and runs.
    """

    view: TradeOffView
    floor: tuple[float, float]
    hypervolume: float | None
    statistics: TradeOffStatistics
    series: tuple[Series, ...] = ()

    @property
    def pick(self) -> str | None:
        """The checkpoint with the highest domain score that retains enough of the general one."""
        picked = self.statistics.pick
        return picked.checkpoint if picked else None

    def to_rows(self) -> list[dict[str, Any]]:
        """Return one row per checkpoint."""
        return [placed_row(point) for point in self.view.points]

    def as_dict(self) -> dict[str, Any]:
        """Return the stable form of `tradeoff --format json`; `series` only where there are any."""
        lines = {"series": [line.as_dict() for line in self.series]} if self.series else {}
        return {
            "axes": {"general": self.view.general.label, "domain": self.view.domain.label},
            "points": self.to_rows(),
            "hypervolume": self.hypervolume,
            "reference": self.view.roles.reference,
            "expert": self.view.roles.expert,
            "floor": list(self.floor),
            "statistics": self.statistics.as_dict(),
            **lines,
        }


def trade_off(
    store: Store,
    paths: Paths,
    *,
    general: str | None = None,
    domain: str | None = None,
    reference: str | None = None,
    expert: str | None = None,
    floor: tuple[float, float] = (0.0, 0.0),
    keep: float | None = None,
    scores: Sequence[Score] | None = None,
) -> TradeOff:
    """Compute the trade-off of general against domain scores from the store.

    Args:
        general, domain: the axes as BENCH:METRIC; the defaults are those of `choose_axes`.
        reference, expert: checkpoints; by default the parents of the newest DAE run.
        floor: reference point of the hypervolume, as (retention, gain).
        keep: pick the highest domain score that retains at least this share of the general one.
        scores: the leaderboard, if it was read before.

    Raises:
        ConfigError: an axis for which no checkpoint has a score, or a checkpoint without scores.
    """
    view = trade_off_view(store, paths, general, domain, reference, expert, scores)
    found = statistics(store, view, floor, keep)
    view = view._replace(points=on_shared_questions(view.points, found.points))
    lines = series_of(store, {point.point.checkpoint for point in view.points})
    return TradeOff(view, floor, dominated_area(view.points, floor), found, tuple(lines))
