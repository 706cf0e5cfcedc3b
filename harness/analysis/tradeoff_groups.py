"""What the trade-off's statistics need, read from the store: rows, the curve, seeds of a recipe."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from kdharness.harness.analysis.scorebook import Group, read_group
from kdharness.harness.analysis.tradeoff import (
    Axis,
    TradeOffPoint,
    TradeOffView,
    dominated_area,
    placed_row,
    trade_off_view,
)
from kdharness.harness.paths import Paths
from kdharness.harness.stats.rows import question_sums
from kdharness.harness.store import Store
from kdharness.harness.types import Checkpoint, digest

if TYPE_CHECKING:
    from kdharness.harness.stats.inference import Interval
    from kdharness.harness.stats.tradeoff import AnsweredItems, RecipeStats, Stats

Sums = dict[str, tuple[float, float]]


def statistics(
    store: Store,
    general: Axis,
    domain: Axis,
    placed: Sequence[TradeOffPoint],
    roles: tuple[str | None, str | None],
    floor: tuple[float, float] = (0.0, 0.0),
    keep: float | None = None,
) -> dict[str, Any]:
    """The `statistics` of `tradeoff --format json`; see `tradeoff_stats` for what each means.

    Figures that are no mean over questions (a length-controlled rate, a panel's) have no
    intervals here; their checkpoints are named in the notes.
    """
    from kdharness.harness.stats.tradeoff import pick, trade_off_stats

    reference, expert = roles
    answered, left_out = read_answered(store, general, domain, placed)
    names = [one.checkpoint for one in answered]
    notes = (
        [f"{', '.join(left_out)}: figures that are no mean over questions have no intervals"]
        if left_out
        else []
    )
    if reference not in names:
        notes.append("no reference is known: name one with --reference")
        return _as_json(None, (), [], notes, keep)
    chosen = _plane(store, general, domain, str(reference), expert, names, floor)
    stats = trade_off_stats(answered, chosen)
    picked = pick(stats, keep) if keep is not None else None
    found = _as_json(
        stats, chosen.curve, seeds_of(store, answered, chosen, stats), [*notes, *stats.notes], keep
    )
    if picked is not None:
        found["pick"] = {
            "checkpoint": picked.checkpoint,
            "min_retention": keep,
            "sure": picked.sure,
            "rivals": list(picked.rivals),
        }
    return found


def _as_json(
    stats: Stats | None,
    curve: Sequence[str],
    recipes: Sequence[RecipeStats],
    notes: Sequence[str],
    keep: float | None,
) -> dict[str, Any]:
    points = {
        point.checkpoint: {
            name: _ends(getattr(point, name)) for name in ("gain", "retention", "above_curve")
        }
        for point in (stats.points if stats else ())
    }
    return {
        "points": points,
        "hypervolume": _ends(stats.hypervolume) if stats else None,
        "curve": list(curve),
        "recipes": [
            {
                "recipe": one.recipe,
                "checkpoints": list(one.checkpoints),
                "figure": one.figure,
                "mean": one.mean,
                "questions": _ends(one.questions),
                "seeds": _ends(one.seeds),
            }
            for one in recipes
        ],
        "pick": None,
        "keep": keep,
        "notes": list(notes),
    }


def _ends(found: Interval | None) -> dict[str, Any] | None:
    if found is None:
        return None
    ends = (
        None if end is None or not math.isfinite(end) else end for end in (found.low, found.high)
    )
    return {
        "value": found.value,
        **dict(zip(("ci_low", "ci_high"), ends, strict=True)),
        "n": found.n,
    }


# ---------------------------------------------------------------- rows


def read_answered(
    store: Store, general: Axis, domain: Axis, placed: Sequence[TradeOffPoint]
) -> tuple[list[AnsweredItems], list[str]]:
    """Every point's rows, and the names of those whose rows do not add up to their figures."""
    from kdharness.harness.stats.tradeoff import AnsweredItems

    groups = [Group(**row) for row in store.judgment_groups()]
    found, left_out = [], []
    for item in placed:
        checkpoint = store.checkpoint(item.point.checkpoint)
        mine = [g for g in groups if checkpoint is not None and g.checkpoint == checkpoint.id]
        sums = [
            _sums(store, mine, axis, value)
            for axis, value in ((general, item.point.general), (domain, item.point.domain))
        ]
        if sums[0] is None or sums[1] is None:
            left_out.append(item.point.checkpoint)
        else:
            found.append(AnsweredItems(item.point.checkpoint, sums[0], sums[1]))
    return found, left_out


def _sums(store: Store, groups: Sequence[Group], axis: Axis, value: float) -> Sums | None:
    """The rows by question whose mean is this very figure."""
    for group in groups:
        if group.bench != axis.bench:
            continue
        sums = question_sums(read_group(store, group), axis.metric)
        weight = sum(w for _, w in sums.values())
        if weight and abs(sum(v for v, _ in sums.values()) / weight - value) <= 1e-6 * max(
            1.0, abs(value)
        ):
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
) -> Any:
    from kdharness.harness.stats.tradeoff import Plane

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
    """One benchmark asks one set of questions; held-out sets are apart though they are one."""
    if general.bench != domain.bench:
        return False
    sets = [axis.metric.rsplit("_", 1)[0] for axis in (general, domain)]
    return general.bench != "heldout" or sets[0] == sets[1]


def curve_between(
    checkpoints: Sequence[Checkpoint], reference: str, expert: str | None, names: Sequence[str]
) -> tuple[str, ...]:
    """The WiSE-FT merges of these two among the names, in the order of alpha."""
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
    """What a checkpoint was made by, whatever the seeds: its config without seed and names.

    A name of another checkpoint in the config stands for that one's recipe.
    """
    run = store.run(checkpoint.run) if checkpoint.run else None
    if run is None or depth > 8:
        return checkpoint.id

    def plain(value: Any) -> Any:
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


def _seed(store: Store, checkpoint: Checkpoint) -> Any:
    run = store.run(checkpoint.run) if checkpoint.run else None
    return run.config.get("seed") if run is not None else None


def seeds_of(
    store: Store, answered: Sequence[AnsweredItems], plane: Any, stats: Stats
) -> list[RecipeStats]:
    """Mean gain and retention of every recipe with several seeds.

    Each seed is held against the reference and the expert of its own seed where there are such,
    else against the plane's.
    """
    from kdharness.harness.stats.tradeoff import draw_plane, recipe_stats

    families: dict[str, dict[Any, str]] = {}
    seeds: dict[str, Any] = {}
    recipes: dict[str, str] = {}
    for one in answered:
        checkpoint = store.checkpoint(one.checkpoint)
        if checkpoint is None or checkpoint.run is None:
            continue
        seeds[one.checkpoint] = _seed(store, checkpoint)
        recipes[one.checkpoint] = recipe_of(store, checkpoint)
        families.setdefault(recipes[one.checkpoint], {})[seeds[one.checkpoint]] = one.checkpoint

    def own(role: str | None, seed: Any) -> str | None:
        return families.get(recipes.get(role or "", ""), {}).get(seed, role)

    found = []
    planes: dict[tuple[str | None, str | None], Any] = {
        (plane.reference, plane.expert): stats.draws
    }
    for members in families.values():
        if len(members) < 2:
            continue
        drawn = []
        for seed, name in members.items():
            ends = own(plane.reference, seed), own(plane.expert, seed)
            if ends not in planes:
                planes[ends] = draw_plane(
                    answered, replace(plane, reference=ends[0], expert=ends[1])
                )
            drawn.append((name, planes[ends]))
        label = min(members.values(), key=lambda name: (len(name), name))
        for figure in ("gain", "retention"):
            one_recipe = recipe_stats(label, drawn, figure)
            if one_recipe is not None:
                found.append(one_recipe)
    return found


@dataclass(frozen=True)
class TradeOff:
    """General against domain: the points, and how sure they are.

    Attributes:
        view: axes, points and roles.
        floor: what the hypervolume counts above, as (retention, gain).
        hypervolume: of (retention, gain); None where no reference or expert is known.
        statistics: intervals over questions and seeds; see docs/outputs.md.
    """

    view: TradeOffView
    floor: tuple[float, float]
    hypervolume: float | None
    statistics: dict[str, Any]

    @property
    def pick(self) -> str | None:
        """The checkpoint with the most domain that keeps enough of general; None for none."""
        picked = self.statistics["pick"]
        return str(picked["checkpoint"]) if picked else None

    def to_rows(self) -> list[dict[str, Any]]:
        """One row per checkpoint."""
        return [placed_row(point) for point in self.view.points]

    def as_dict(self) -> dict[str, Any]:
        """The stable form of `tradeoff --format json`."""
        return {
            "axes": {"general": self.view.general.label, "domain": self.view.domain.label},
            "points": self.to_rows(),
            "hypervolume": self.hypervolume,
            "reference": self.view.roles.reference,
            "expert": self.view.roles.expert,
            "floor": list(self.floor),
            "statistics": self.statistics,
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
) -> TradeOff:
    """General against domain, from what is stored.

    Args:
        general, domain: the axes as BENCH:METRIC; by default the first of those that are stored.
        reference, expert: checkpoints; by default the parents of the newest DAE run.
        floor: the hypervolume counts above this (retention, gain).
        keep: pick the most domain with at least this share of the general score.

    Raises:
        ConfigError: an axis that no checkpoint has, or a checkpoint that has none of them.
    """
    view = trade_off_view(store, paths, general, domain, reference, expert)
    found = statistics(store, view.general, view.domain, view.points, view.roles, floor, keep)
    return TradeOff(view, floor, dominated_area(view.points, floor), found)
