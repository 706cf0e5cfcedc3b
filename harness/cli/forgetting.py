"""The forgetting command: what a training changed beside its domain."""

from __future__ import annotations

from typing import Any

import click

from kdharness.harness.analysis.compare import compare_sides, sides_of
from kdharness.harness.analysis.forgetting import (
    CLOSENESS,
    FORGETTING_COLUMNS,
    HOW,
    PARTS,
    Change,
    Profile,
    profile_of,
)
from kdharness.harness.cli.options import format_option, split
from kdharness.harness.paths import Paths
from kdharness.harness.stats.rows import LEAST_FOR_VERDICT
from kdharness.harness.store import Store
from kdharness.harness.util.tables import print_table

CLOSE = ("figure", "checkpoint", "distance")
"""Columns of closeness, which has no reference value and no verdict."""
PREDICTION_COLUMNS = (
    "part",
    "bench",
    "metric",
    "n",
    "slope",
    "ci_low",
    "ci_high",
    "r",
    "spearman",
)


@click.command("forgetting")
@click.argument("reference")
@click.argument("checkpoints", nargs=-1, required=True)
@click.option(
    "--what",
    type=click.Choice(["profile", "prediction"]),
    help="Show only this. Default: both as tables; the profile in other formats.",
)
@click.option(
    "--bench",
    multiple=True,
    help="Also look at format and behaviour on this general benchmark of your own.",
)
@format_option
@click.pass_obj
def forgetting_command(
    paths: Paths,
    reference: str,
    checkpoints: tuple[str, ...],
    what: str | None,
    bench: tuple[str, ...],
    form: str,
) -> None:
    """Show what CHECKPOINTS lost or changed against REFERENCE, part by part.

    Instruction following, open answers, imported knowledge, general text, format and behaviour:
    each with the paired difference on the items that both answered, corrected over all parts. Then
    closeness to the reference, and how well KL to it on domain rows predicts the rest.
    """
    with Store(paths.store) as store:
        sides = sides_of(store, [reference, *checkpoints])
        compared = compare_sides(store, paths, sides)
        profile = profile_of(store, sides, compared, set(split(bench)))
    if what != "prediction" and form == "table":
        _print_parts(profile)
    elif what != "prediction":
        print_table([change.as_dict() for change in profile.changes], FORGETTING_COLUMNS, form)
    if form == "table":
        _print_notes(profile, len(sides) - 1)
    if what == "prediction" or (what is None and form == "table"):
        _print_prediction(profile, form)


def _print_parts(profile: Profile) -> None:
    """Print a narrow table for each part, without figures that are the same in all."""
    first, unchanged = True, set(_unchanged(profile))
    for part in PARTS:
        rows = [
            {
                "figure": f"{change.bench} {change.metric}",
                "checkpoint": change.checkpoint,
                "reference": change.reference,
                "difference": _with_ends(change),
                "change": change.change,
            }
            for change in profile.changes
            if change.part == part and f"{change.bench} {change.metric}" not in unchanged
        ]
        if rows:
            title = "distance" if part == CLOSENESS else "difference"
            click.echo(part if first else f"\n{part}")
            first = False
            shown = [{**row, title: row["difference"]} for row in rows]
            columns = ["figure", "checkpoint", "reference", title, "change"]
            print_table(shown, [c for c in columns if part != CLOSENESS or c in CLOSE], "table")


def _with_ends(change: Change) -> str:
    """Return a difference, or the distance from the reference, with its interval."""
    sign = "" if change.part == CLOSENESS else "+"
    ends = change.gap.low, change.gap.high
    interval = "" if None in ends else " [{:z.3g}, {:z.3g}]".format(*ends)
    return f"{change.gap.value:{sign}z.3g}{interval}"


def same(change: Change) -> bool:
    """Return whether a figure did not change."""
    return change.part != CLOSENESS and not change.gap.value and change.gap.p >= 1


def _unchanged(profile: Profile) -> list[str]:
    """Return the figures that are the same in all checkpoints."""
    alike = dict.fromkeys(f"{c.bench} {c.metric}" for c in profile.changes if same(c))
    changed = {f"{c.bench} {c.metric}" for c in profile.changes if not same(c)}
    return [name for name in alike if name not in changed]


def _print_notes(profile: Profile, others: int) -> None:
    if unchanged := _unchanged(profile):
        click.echo(f"  the same in all: {', '.join(unchanged)}", err=True)
    for reason, left in (
        (f"fewer than {LEAST_FOR_VERDICT} items in common with the reference", profile.few),
        ("measured with other settings than the reference", profile.apart),
    ):
        if left:
            # Names only where they are not all.
            parts = [
                bench if len(names) == others else f"{bench} ({', '.join(names)})"
                for bench, names in left.items()
            ]
            click.echo(f"  left out, {reason}: {', '.join(parts)}", err=True)
    for part in profile.missing:
        click.echo(f"  nothing on {part}: kdharness {HOW[part]}", err=True)


def _print_prediction(profile: Profile, form: str) -> None:
    fitted: list[dict[str, Any]] = [found.as_dict() for found in profile.predictions]
    if form != "table":
        print_table(fitted, PREDICTION_COLUMNS, form)
        return
    click.echo("\nHow KL to the reference on domain rows predicts each change")
    rows = [row for row in fitted if row["slope"] is not None]
    if rows:
        print_table(rows, PREDICTION_COLUMNS, form)
        click.echo("  slope: change of the figure per nat of KL, over the checkpoints", err=True)
        return
    click.echo(
        "too few checkpoints: a line needs five with that KL "
        "(kdharness eval --bench heldout --teacher REFERENCE) and a figure"
    )
