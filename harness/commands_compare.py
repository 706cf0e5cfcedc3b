"""Commands that set checkpoints side by side: tradeoff."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import click

from kdharness.harness.errors import ConfigError
from kdharness.harness.paths import Paths
from kdharness.harness.tables import FORMATS, print_table, safe_text

if TYPE_CHECKING:
    from kdharness.harness.store import Store
    from kdharness.harness.tradeoff import Axis, Placed, Point
    from kdharness.harness.types import Score

GENERAL_DEFAULTS = (
    "heldout:other_writer_loss", "heldout:general_loss", "mt-bench:score", "alpaca-eval-2:win_rate",
)  # fmt: skip
DOMAIN_DEFAULTS = ("shop:score", "heldout:domain_loss")
COLUMNS = ["#", "checkpoint", "method", "general", "domain", "gain", "retention", "on_front"]


@click.command("tradeoff")
@click.option("--general", metavar="BENCH:METRIC", help="The general axis (default: the first of "
              f"{', '.join(GENERAL_DEFAULTS)} that is stored).")
@click.option("--domain", metavar="BENCH:METRIC", help="The domain axis (default: shop:score).")
@click.option("--reference", metavar="CKPT", help="What retention and gain start from.")
@click.option("--expert", metavar="CKPT", help="The checkpoint whose gain counts as 1.")
@click.option("--floor", type=(float, float), default=(0.0, 0.0), metavar="RETENTION GAIN",
              help="The hypervolume counts above this.")
@click.option("--keep", type=click.FloatRange(min=0), metavar="SHARE",
              help="Pick the most domain with at least this share of the general figure.")
@click.option("--format", "form", type=click.Choice(FORMATS), default="table")
@click.pass_obj
def tradeoff_command(
    paths: Paths, general: str | None, domain: str | None, reference: str | None,
    expert: str | None, floor: tuple[float, float], keep: float | None, form: str,
) -> None:  # fmt: skip
    """General against domain: who gained how much, who lost how much, who is on the front."""
    from kdharness.harness.store import Store
    from kdharness.harness.tradeoff import dominated_area, draw
    from kdharness.harness.tradeoff_groups import statistics

    with Store(paths.store) as store:
        view = trade_off_view(store, paths, general, domain, reference, expert)
        x, y, placed, roles = view
        certainty = statistics(store, x, y, placed, roles, floor, keep)
    volume = dominated_area(placed, floor)
    rows = [placed_row(item) for item in placed]
    if form == "json":
        click.echo(json.dumps({
            "axes": {"general": x.label, "domain": y.label}, "points": rows,
            "hypervolume": volume, "reference": roles[0], "expert": roles[1],
            "floor": list(floor), "statistics": certainty,
        }, indent=2))  # fmt: skip
        return
    numbered = [{"#": number, **row} for number, row in enumerate(rows, 1)]
    print_table(numbered, COLUMNS, form)
    if form != "table":
        return
    click.echo("")
    click.echo("\n".join(draw(placed, x, y)))
    click.echo(f"# on the Pareto front; reference {roles[0] or 'unknown'}, "
               f"expert {roles[1] or 'unknown'}", err=True)
    if volume is not None:
        click.echo(f"hypervolume of (retention, gain) above {floor}: {volume:.4f}", err=True)
    for line in certainty_lines(certainty):
        click.echo(line)


def certainty_lines(found: dict[str, Any]) -> list[str]:
    """The trade-off's statistics as lines: intervals, seeds, and what to pick."""
    from kdharness.harness.tables import format_rows

    def text(part: dict[str, Any] | None) -> str:
        if part is None:
            return "–"
        return f"{part['value']:.3g} [{part['ci_low']:.3g}, {part['ci_high']:.3g}]"

    rows = [
        {"checkpoint": name, **{figure: text(part) for figure, part in parts.items()}}
        for name, parts in found["points"].items()
    ]
    lines = []
    if rows:
        lines += ["", "95 % intervals over questions", format_rows(
            rows, ["checkpoint", "gain", "retention", "above_curve"], "table")]  # fmt: skip
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
    store: Store, paths: Paths, general: str | None, domain: str | None,
    reference: str | None, expert: str | None,
) -> tuple[Axis, Axis, list[Placed], tuple[str | None, str | None]]:  # fmt: skip
    """Axes, placed points and the (reference, expert) names, from the store.

    Raises:
        ConfigError: an axis that no checkpoint has, or a checkpoint that has none of them.
    """
    from kdharness.harness.leaderboard import leaderboard
    from kdharness.harness.tradeoff import place

    scores = leaderboard(store, paths)
    x = choose_axis(scores, general, GENERAL_DEFAULTS, "general")
    y = choose_axis(scores, domain, DOMAIN_DEFAULTS, "domain")
    points = collect_points(scores, x, y)
    found = roles(store, {point.checkpoint for point in points}, reference, expert)
    return x, y, place(points, x, y, *found), found


def choose_axis(scores: Sequence[Score], wanted: str | None, defaults: Sequence[str],
                name: str) -> Axis:
    """The axis that was asked for, or the first default that has figures."""
    from kdharness.harness.leaderboard import is_lower_better
    from kdharness.harness.tradeoff import Axis

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
            where=f"--{name}", hint=f"stored: {known}",
        )
    bench, _, metric = label.partition(":")
    return Axis(bench, metric, is_lower_better(metric))


def collect_points(scores: Sequence[Score], x: Axis, y: Axis) -> list[Point]:
    """The checkpoints with both figures; of several judges or revisions, the one with most rows."""
    from kdharness.harness.tradeoff import Point

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
        points.append(Point(name, g.method, g.value, d.value,
                            (g.ci_low, g.ci_high), (d.ci_low, d.ci_high)))
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
            raise ConfigError(f"{name!r} has no figures on these axes", where=option,
                              hint=f"known: {', '.join(sorted(names))}")
    by_id = {c.id: c.name for c in store.checkpoints()}
    for checkpoint in reversed(store.checkpoints()):
        if checkpoint.method != "dae":
            continue
        base = by_id.get(checkpoint.parents.get("reference", ""))
        best = by_id.get(checkpoint.parents.get("expert", ""))
        reference = reference or (base if base in names else None)
        expert = expert or (best if best in names else None)
    return reference, expert
