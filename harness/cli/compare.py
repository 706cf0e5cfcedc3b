"""Commands that set checkpoints side by side: tradeoff and compare."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import click

from kdharness.harness.errors import ConfigError
from kdharness.harness.paths import Paths
from kdharness.harness.util.tables import FORMATS, print_table, safe_text

if TYPE_CHECKING:
    from kdharness.harness.analysis.compare import Side
    from kdharness.harness.analysis.tradeoff import Axis, Placed, Point
    from kdharness.harness.store import Store
    from kdharness.harness.types import Score

GENERAL_DEFAULTS = (
    "heldout:other_writer_loss",
    "heldout:general_loss",
    "mt-bench:score",
    "alpaca-eval-2:win_rate",
)
DOMAIN_DEFAULTS = ("shop:score", "heldout:domain_loss")
COLUMNS = ["#", "checkpoint", "method", "general", "domain", "gain", "retention", "on_front"]


@click.command("tradeoff")
@click.option(
    "--general",
    metavar="BENCH:METRIC",
    help=f"The general axis (default: the first of {', '.join(GENERAL_DEFAULTS)} that is stored).",
)
@click.option("--domain", metavar="BENCH:METRIC", help="The domain axis (default: shop:score).")
@click.option("--reference", metavar="CKPT", help="What retention and gain start from.")
@click.option("--expert", metavar="CKPT", help="The checkpoint whose gain counts as 1.")
@click.option(
    "--floor",
    type=(float, float),
    default=(0.0, 0.0),
    metavar="RETENTION GAIN",
    help="The hypervolume counts above this.",
)
@click.option(
    "--keep",
    type=click.FloatRange(min=0),
    metavar="SHARE",
    help="Pick the most domain with at least this share of the general figure.",
)
@click.option("--format", "form", type=click.Choice(FORMATS), default="table")
@click.pass_obj
def tradeoff_command(
    paths: Paths,
    general: str | None,
    domain: str | None,
    reference: str | None,
    expert: str | None,
    floor: tuple[float, float],
    keep: float | None,
    form: str,
) -> None:
    """General against domain: who gained how much, who lost how much, who is on the front."""
    from kdharness.harness.analysis.tradeoff import dominated_area, draw
    from kdharness.harness.analysis.tradeoff_groups import statistics
    from kdharness.harness.store import Store

    with Store(paths.store) as store:
        view = trade_off_view(store, paths, general, domain, reference, expert)
        x, y, placed, roles = view
        certainty = statistics(store, x, y, placed, roles, floor, keep)
    volume = dominated_area(placed, floor)
    rows = [placed_row(item) for item in placed]
    if form == "json":
        click.echo(
            json.dumps(
                {
                    "axes": {"general": x.label, "domain": y.label},
                    "points": rows,
                    "hypervolume": volume,
                    "reference": roles[0],
                    "expert": roles[1],
                    "floor": list(floor),
                    "statistics": certainty,
                },
                indent=2,
            )
        )
        return
    numbered = [{"#": number, **row} for number, row in enumerate(rows, 1)]
    print_table(numbered, COLUMNS, form)
    if form != "table":
        return
    click.echo("")
    click.echo("\n".join(draw(placed, x, y)))
    click.echo(
        f"# on the Pareto front; reference {roles[0] or 'unknown'}, expert {roles[1] or 'unknown'}",
        err=True,
    )
    if volume is not None:
        click.echo(f"hypervolume of (retention, gain) above {floor}: {volume:.4f}", err=True)
    for line in certainty_lines(certainty):
        click.echo(line)


def certainty_lines(found: dict[str, Any]) -> list[str]:
    """The trade-off's statistics as lines: intervals, seeds, and what to pick."""
    from kdharness.harness.util.tables import format_rows

    def text(part: dict[str, Any] | None) -> str:
        if part is None:
            return "–"
        if part["ci_low"] is None or part["ci_high"] is None:
            return f"{part['value']:.3g} [n {part['n']}: too small]"
        return f"{part['value']:.3g} [{part['ci_low']:.3g}, {part['ci_high']:.3g}]"

    rows = [
        {"checkpoint": name, **{figure: text(part) for figure, part in parts.items()}}
        for name, parts in found["points"].items()
    ]
    lines = []
    if rows:
        lines += [
            "",
            "95 % intervals over questions",
            format_rows(rows, ["checkpoint", "gain", "retention", "above_curve"], "table"),
        ]
    if found["hypervolume"]:
        lines.append(f"hypervolume {text(found['hypervolume'])}")
    for one in found["recipes"]:
        lines.append(
            f"{one['recipe']}: mean {one['figure']} of {len(one['checkpoints'])} seeds: "
            f"over questions {text(one['questions'])}, over seeds {text(one['seeds'])}"
        )
    picked = found["pick"]
    if picked is not None:
        sure = "" if picked["sure"] else " (its interval reaches below)"
        rivals = ", ".join(picked["rivals"])
        lines.append(
            f"pick {picked['checkpoint']}: the most domain with at least "
            f"{picked['min_retention']:g} of general{sure}"
            + (f"; not told apart from: {rivals}" if rivals else "")
        )
    elif found["keep"] is not None:
        lines.append(f"no checkpoint is known to keep {found['keep']:g} of general")
    return [safe_text(line) for line in [*lines, *(f"note: {n}" for n in found["notes"])]]


def placed_row(item: Placed) -> dict[str, Any]:
    """A point as the stable row of `tradeoff --format json`."""
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
) -> tuple[Axis, Axis, list[Placed], tuple[str | None, str | None]]:
    """Axes, placed points and the (reference, expert) names, from the store.

    Raises:
        ConfigError: an axis that no checkpoint has, or a checkpoint that has none of them.
    """
    from kdharness.harness.analysis.leaderboard import leaderboard
    from kdharness.harness.analysis.tradeoff import place

    scores = leaderboard(store, paths)
    x = choose_axis(scores, general, GENERAL_DEFAULTS, "general")
    y = choose_axis(scores, domain, DOMAIN_DEFAULTS, "domain")
    points = collect_points(scores, x, y)
    found = roles(store, {point.checkpoint for point in points}, reference, expert)
    return x, y, place(points, x, y, *found), found


def choose_axis(
    scores: Sequence[Score], wanted: str | None, defaults: Sequence[str], name: str
) -> Axis:
    """The axis that was asked for, or the first default that has figures."""
    from kdharness.harness.analysis.leaderboard import is_lower_better
    from kdharness.harness.analysis.tradeoff import Axis

    have = dict.fromkeys(f"{score.bench}:{score.metric}" for score in scores)
    label = wanted
    if label is not None and ":" not in label:
        label = next((known for known in have if known.startswith(f"{label}:")), label)
    if label is None:
        label = next((known for known in defaults if known in have), None)
    if label is None or label not in have:
        known = ", ".join(have) or "nothing yet; run: kdharness eval --ckpt PATH"
        raise ConfigError(
            f"no checkpoint has {wanted or 'a figure'} for the {name} axis",
            where=f"--{name}",
            hint=f"stored: {known}",
        )
    bench, _, metric = label.partition(":")
    return Axis(bench, metric, is_lower_better(metric))


def collect_points(scores: Sequence[Score], x: Axis, y: Axis) -> list[Point]:
    """The checkpoints with both figures; of several judges or revisions, the one with most rows."""
    from kdharness.harness.analysis.tradeoff import Point

    best: dict[tuple[str, str], Score] = {}
    for score in scores:
        label = f"{score.bench}:{score.metric}"
        if label not in (x.label, y.label) or score.value is None:
            continue
        known = best.get((score.checkpoint, label))
        if known is None or score.n > known.n:
            best[score.checkpoint, label] = score
    points = []
    for name in dict.fromkeys(score.checkpoint for score in scores):
        g, d = best.get((name, x.label)), best.get((name, y.label))
        if g is None or d is None or g.value is None or d.value is None:
            continue
        points.append(
            Point(name, g.method, g.value, d.value, (g.ci_low, g.ci_high), (d.ci_low, d.ci_high))
        )
    return points


def roles(
    store: Store, names: set[str], reference: str | None, expert: str | None
) -> tuple[str | None, str | None]:
    """The reference and the expert: as asked for, else the parents of the newest DAE run.

    Raises:
        ConfigError: a name that is not among the points.
    """
    for name, option in ((reference, "--reference"), (expert, "--expert")):
        if name is not None and name not in names:
            raise ConfigError(
                f"{name!r} has no figures on these axes",
                where=option,
                hint=f"known: {', '.join(sorted(names))}",
            )
    by_id = {c.id: c.name for c in store.checkpoints()}
    for checkpoint in reversed(store.checkpoints()):
        if checkpoint.method != "dae":
            continue
        base = by_id.get(checkpoint.parents.get("reference", ""))
        best = by_id.get(checkpoint.parents.get("expert", ""))
        reference = reference or (base if base in names else None)
        expert = expert or (best if best in names else None)
    return reference, expert


# ---------------------------------------------------------------- compare


PARTS = {
    "differences": "Paired differences",
    "settings": "Settings that differ",
    "flips": "What flipped",
    "cost": "Cost of each",
}


@dataclass(frozen=True)
class Listed:
    """One listing of `compare`; `empty` is said in its place, `note` goes to stderr after it."""

    rows: Sequence[dict[str, Any]]
    columns: Sequence[str]
    empty: str = ""
    note: str = ""


@click.command("compare")
@click.argument("checkpoints", nargs=-1, required=True)
@click.option(
    "--what",
    type=click.Choice(list(PARTS)),
    help="One part alone. Default: all as a table, the differences in other formats.",
)
@click.option("--bench", multiple=True, help="Only these benchmarks.")
@click.option("--metric", multiple=True, help="Only these metrics (of the differences).")
@click.option("--all", "everything", is_flag=True, help="Categories too (JSON always has them).")
@click.option(
    "--flips",
    "limit",
    type=click.IntRange(0),
    default=5,
    show_default=True,
    metavar="N",
    help="How many flipped items to list, a benchmark and judge.",
)
@click.option(
    "--format", "form", type=click.Choice(FORMATS), default="table", help="How to print the list."
)
@click.pass_obj
def compare_command(
    paths: Paths,
    checkpoints: tuple[str, ...],
    what: str | None,
    bench: tuple[str, ...],
    metric: tuple[str, ...],
    everything: bool,
    limit: int,
    form: str,
) -> None:
    """Each checkpoint against the first: paired differences on the items that both answered,
    the settings that differ, what flipped, and the cost of each."""
    from kdharness.harness.analysis.compare import sides_of
    from kdharness.harness.cli.eval import split
    from kdharness.harness.config.evaluation import bench_name
    from kdharness.harness.store import Store

    benches = {bench_name(name) for name in split(bench)}
    parts = [what] if what else list(PARTS) if form == "table" else ["differences"]
    with Store(paths.store) as store:
        sides = sides_of(store, checkpoints, benches)
        listings: dict[str, Callable[[], list[Listed]]] = {
            "differences": lambda: _differences(
                store, paths, sides, set(split(metric)), everything, form
            ),
            "settings": lambda: _settings(store, sides, form),
            "flips": lambda: _flips(sides, limit, form),
            "cost": lambda: _costs(store, sides, form),
        }
        for place, part in enumerate(parts):
            if len(parts) > 1:
                click.echo(PARTS[part] if place == 0 else f"\n{PARTS[part]}")
            for listed in listings[part]():
                _print_listed(listed, form)


def _print_listed(listed: Listed, form: str) -> None:
    if not listed.rows and form == "table":
        if listed.empty:
            click.echo(listed.empty)
        return
    print_table(listed.rows, listed.columns, form)
    if listed.note and form == "table":
        click.echo(f"  {listed.note}", err=True)


def _differences(
    store: Store,
    paths: Paths,
    sides: Sequence[Side],
    metrics: set[str],
    everything: bool,
    form: str,
) -> list[Listed]:
    from kdharness.harness.analysis.compare import COLUMNS, compare_sides
    from kdharness.harness.cli.eval import is_headline

    rows = [
        one.as_dict()
        for one in compare_sides(store, paths, sides)
        if (not metrics or one.metric in metrics)
        and (everything or metrics or form in ("json", "csv") or is_headline(one.metric))
    ]
    return [
        Listed(
            rows,
            COLUMNS,
            "nothing that both were judged on",
            "p_holm: corrected for all that is compared on that benchmark, categories included; "
            "n_needed: items it would take to tell a difference of this size (80 % power)",
        )
    ]


def _settings(store: Store, sides: Sequence[Side], form: str) -> list[Listed]:
    """For programs a row a field and checkpoint; for eyes a column a checkpoint."""
    from kdharness.harness.analysis.side_by_side import (
        SETTING_COLUMNS,
        setting_rows,
        setting_text,
        settings_that_differ,
    )

    found = settings_that_differ(store, [side.checkpoint for side in sides])
    rows = setting_rows(sides, found)
    if form == "json":
        return [Listed(rows, SETTING_COLUMNS)]
    if form == "csv":
        plain = [{**row, "value": setting_text(row["value"])} for row in rows]
        return [Listed(plain, SETTING_COLUMNS)]
    # The number keeps columns apart where one checkpoint is named twice. Heads are printed as
    # they are, so a name must not end its line or its column.
    heads = [
        safe_text(f"{place} {side.name}".replace("\n", " "), 40).replace("|", "\\|")
        for place, side in enumerate(sides, 1)
    ]
    wide = [
        {"field": field, **dict(zip(heads, map(setting_text, values), strict=True))}
        for field, values in found
    ]
    return [Listed(wide, ["field", *heads], "none")]


def _flips(sides: Sequence[Side], limit: int, form: str) -> list[Listed]:
    from kdharness.harness.analysis.side_by_side import FLIP_COLUMNS, flip_counts

    base, *others = sides
    found = [one for other in others for one in flip_counts(base, other)]
    rows = [one.as_dict(limit) for one in found]
    if form == "json":
        return [Listed(rows, FLIP_COLUMNS)]
    if form != "table":
        named = [
            {**row, "items": ", ".join(item.item for item in one.items[:limit])}
            for row, one in zip(rows, found, strict=True)
        ]
        return [Listed(named, FLIP_COLUMNS)]
    items = [
        {"bench": one.bench, "other": one.other, **item.as_dict()}
        for one in found
        for item in one.items[:limit]
    ]
    counts = Listed(
        rows,
        [column for column in FLIP_COLUMNS if column != "items"],
        "nothing that both were judged on",
        "right: at least half of what can be had, a rating flips by two points or more; "
        "n: verdicts that both have",
    )
    return [
        counts,
        Listed(
            items,
            ["bench", "other", "item", "category", "metric", "base_value", "other_value", "flip"],
        ),
    ]


def _costs(store: Store, sides: Sequence[Side], form: str) -> list[Listed]:
    from kdharness.harness.analysis.costs import COLUMNS, TITLES, costs_of

    found = costs_of(store, [side.checkpoint for side in sides])
    if form in ("json", "csv"):
        return [Listed([cost.as_dict() for cost in found], COLUMNS)]
    rows = [
        {"checkpoint": cost.checkpoint, **{TITLES[k]: text for k, text in cost.texts().items()}}
        for cost in found
    ]
    return [
        Listed(
            rows,
            ["checkpoint", *TITLES.values()],
            "",
            "ancestors: start, teacher, expert and reference, each run once; "
            "≥: some have no figure",
        )
    ]
