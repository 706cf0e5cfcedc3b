"""The tradeoff command: general against domain score, as a table and a text plot."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from itertools import pairwise
from typing import TYPE_CHECKING

import click

from kdharness.harness.analysis.series import Series
from kdharness.harness.analysis.tradeoff import (
    DOMAIN_DEFAULTS,
    GENERAL_DEFAULTS,
    Axis,
    TradeOffPoint,
)
from kdharness.harness.analysis.tradeoff_groups import TradeOffStatistics, trade_off
from kdharness.harness.cli.options import format_option
from kdharness.harness.paths import Paths
from kdharness.harness.store import Store
from kdharness.harness.util.tables import format_rows, print_table
from kdharness.harness.util.text import safe_text

if TYPE_CHECKING:
    from kdharness.harness.stats.inference import Interval

TRADE_OFF_COLUMNS = [
    "#",
    "checkpoint",
    "method",
    "general",
    "domain",
    "gain",
    "retention",
    "on_front",
]


@click.command("tradeoff")
@click.option(
    "--general",
    metavar="BENCH:METRIC",
    help=f"The general axis (default: the one of {', '.join(GENERAL_DEFAULTS)} "
    "with the most checkpoints that also have a domain score).",
)
@click.option(
    "--domain",
    metavar="BENCH:METRIC",
    help=f"The domain axis (default: {' or '.join(DOMAIN_DEFAULTS)}, chosen in the same way).",
)
@click.option("--reference", metavar="CKPT", help="The baseline of gain and retention.")
@click.option("--expert", metavar="CKPT", help="The checkpoint whose gain counts as 1.")
@click.option(
    "--floor",
    type=(float, float),
    default=(0.0, 0.0),
    metavar="RETENTION GAIN",
    help="Reference point of the hypervolume.",
)
@click.option(
    "--keep",
    type=click.FloatRange(min=0),
    metavar="SHARE",
    help="Pick the checkpoint with the highest domain score that retains at least this share.",
)
@format_option
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
    """Plot general against domain score: gain, retention, Pareto front."""
    with Store(paths.store) as store:
        result = trade_off(
            store,
            paths,
            general=general,
            domain=domain,
            reference=reference,
            expert=expert,
            floor=floor,
            keep=keep,
        )
    if form == "json":
        click.echo(json.dumps(result.as_dict(), indent=2))
        return
    rows, roles = result.to_rows(), result.view.roles
    numbered = [{"#": number, **row} for number, row in enumerate(rows, 1)]
    print_table(numbered, TRADE_OFF_COLUMNS, form)
    if form != "table":
        return
    click.echo("")
    click.echo(
        "\n".join(draw(result.view.points, result.view.general, result.view.domain, result.series))
    )
    click.echo(
        f"# on the Pareto front; reference {roles.reference or 'unknown'}, "
        f"expert {roles.expert or 'unknown'}",
        err=True,
    )
    if result.hypervolume is not None:
        click.echo(
            f"hypervolume of (retention, gain) above {floor}: {result.hypervolume:.4f}", err=True
        )
    for line in [*series_lines(result.series, rows), *certainty_lines(result.statistics)]:
        click.echo(line)


def series_lines(series: Sequence[Series], rows: Sequence[Mapping[str, object]]) -> list[str]:
    """Format the lines through the points: a table for each, in the order of its values."""
    known = {row["checkpoint"]: row for row in rows}
    lines = []
    for one in series:
        along = one.name if one.kind == "axis" else f"{one.name} along its steps"
        leaf = one.field.rpartition(".")[2]
        table = [
            {leaf: f"{value:g}", **known[name]}
            for name, value in zip(one.checkpoints, one.values, strict=True)
        ]
        columns = [leaf, "checkpoint", "general", "domain", "gain", "retention"]
        lines += ["", safe_text(along), format_rows(table, columns, "table")]
    return lines


def certainty_lines(found: TradeOffStatistics) -> list[str]:
    """Format the statistics of a trade-off: intervals, seeds, and the picked checkpoint."""

    def text(part: Interval | None) -> str:
        if part is None:
            return "–"
        if part.low is None or part.high is None:
            return f"{part.value:z.3g} [n {part.n}: too small]"
        return f"{part.value:z.3g} [{part.low:z.3g}, {part.high:z.3g}]"

    rows = [
        {
            "checkpoint": point.checkpoint,
            "gain": text(point.gain),
            "retention": text(point.retention),
            "above_curve": text(point.above_curve),
        }
        for point in found.points
    ]
    lines = []
    if rows:
        lines += [
            "",
            "95 % intervals over questions",
            format_rows(rows, ["checkpoint", "gain", "retention", "above_curve"], "table"),
        ]
    if found.hypervolume:
        lines.append(f"hypervolume {text(found.hypervolume)}")
    for recipe in found.recipes:
        lines.append(
            f"{recipe.recipe}: mean {recipe.figure} of {len(recipe.checkpoints)} seeds: "
            f"over questions {text(recipe.questions)}, over seeds {text(recipe.seeds)}"
        )
    picked = found.pick
    if picked is not None:
        uncertain = "" if picked.sure else " (but its interval extends below that)"
        rivals = ", ".join(picked.rivals)
        lines.append(
            f"pick {picked.checkpoint}: the highest domain score that retains at least "
            f"{picked.min_retention:g} of the general score{uncertain}"
            + (f"; no significant difference from: {rivals}" if rivals else "")
        )
    elif found.keep is not None:
        lines.append(f"no checkpoint retains {found.keep:g} of the general score")
    return [safe_text(line) for line in [*lines, *(f"note: {n}" for n in found.notes)]]


def draw(
    placed: Sequence[TradeOffPoint],
    general: Axis,
    domain: Axis,
    series: Sequence[Series] = (),
    width: int = 64,
    height: int = 14,
) -> list[str]:
    """Draw the plane as text: general to the right, domain upwards, higher is better on both.

    `#` is on the Pareto front, `o` is not; the number after it is the point's row. Dots join the
    points of a series.
    """
    if not placed:
        return []
    xs = [general.oriented(p.point.general) for p in placed]
    ys = [domain.oriented(p.point.domain) for p in placed]
    grid = [[" "] * width for _ in range(height)]
    cells = {
        item.point.checkpoint: (_cell(x, xs, width - 4), height - 1 - _cell(y, ys, height))
        for item, x, y in zip(placed, xs, ys, strict=True)
    }
    for line in series:
        for first, second in pairwise(line.checkpoints):
            for column, row in _between(cells[first], cells[second]):
                grid[row][column] = "·"
    for number, (item, x, y) in enumerate(zip(placed, xs, ys, strict=True), 1):
        column = _cell(x, xs, width - 4)
        row = height - 1 - _cell(y, ys, height)
        text = f"{'#' if item.on_front else 'o'}{number}"
        while any(grid[row][column + i] not in " ·" for i in range(len(text))) and row > 0:
            row -= 1
        for i, char in enumerate(text):
            grid[row][column + i] = char
    low_x, high_x = (_edge(general, value) for value in (min(xs), max(xs)))
    low_y, high_y = (_edge(domain, value) for value in (min(ys), max(ys)))
    lines = [f"{domain.label}  ({low_y} at the bottom, {high_y} at the top)"]
    lines += ["│" + "".join(row).rstrip() for row in grid]
    lines.append("└" + "─" * width)
    lines.append(f"{general.label}: {low_x} at the left, {high_x} at the right (better)")
    return lines


def _between(first: tuple[int, int], second: tuple[int, int]) -> list[tuple[int, int]]:
    """Return the cells of a straight line between two cells."""
    ends = list(zip(first, second, strict=True))
    steps = max((abs(b - a) for a, b in ends), default=0)
    return [
        (
            round(ends[0][0] + (ends[0][1] - ends[0][0]) * k / steps),
            round(ends[1][0] + (ends[1][1] - ends[1][0]) * k / steps),
        )
        for k in range(1, steps)
    ]


def _cell(value: float, values: Sequence[float], size: int) -> int:
    low, high = min(values), max(values)
    return round((value - low) / (high - low) * (size - 1)) if high > low else size // 2


def _edge(axis: Axis, value: float) -> str:
    return f"{axis.oriented(value):z.4g}"
