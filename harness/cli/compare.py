"""Commands that set checkpoints side by side: tradeoff and compare."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import click

from kdharness.harness.analysis.compare import COMPARISON_COLUMNS, compare_sides, sides_of
from kdharness.harness.analysis.costs import COST_COLUMNS, TITLES, costs_of
from kdharness.harness.analysis.metrics import is_headline
from kdharness.harness.analysis.side_by_side import (
    FLIP_COLUMNS,
    SETTING_COLUMNS,
    flip_counts,
    setting_rows,
    setting_text,
    settings_that_differ,
)
from kdharness.harness.cli.options import split
from kdharness.harness.config.evaluation import bench_name
from kdharness.harness.paths import Paths
from kdharness.harness.store import Store
from kdharness.harness.util.tables import FORMATS, print_table
from kdharness.harness.util.text import safe_text

if TYPE_CHECKING:
    from kdharness.harness.analysis.compare import Side
    from kdharness.harness.store import Store


# ---------------------------------------------------------------- compare


PARTS = {
    "differences": "Paired differences",
    "settings": "Settings that differ",
    "flips": "What flipped",
    "cost": "Cost of each",
}


@dataclass(frozen=True)
class Listing:
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
    """Compare checkpoints with the first one.

    Shows paired differences on the items that both answered, the settings that differ, what
    flipped, and the cost of each.
    """
    benches = {bench_name(name) for name in split(bench)}
    parts = [what] if what else list(PARTS) if form == "table" else ["differences"]
    with Store(paths.store) as store:
        sides = sides_of(store, checkpoints, benches)
        listings: dict[str, Callable[[], list[Listing]]] = {
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


def _print_listed(listed: Listing, form: str) -> None:
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
) -> list[Listing]:
    rows = [
        one.as_dict()
        for one in compare_sides(store, paths, sides)
        if (not metrics or one.metric in metrics)
        and (everything or metrics or form in ("json", "csv") or is_headline(one.metric))
    ]
    return [
        Listing(
            rows,
            COMPARISON_COLUMNS,
            "nothing that both were judged on",
            "p_holm: corrected for all that is compared on that benchmark, categories included; "
            "n_needed: items it would take to tell a difference of this size (80 % power)",
        )
    ]


def _settings(store: Store, sides: Sequence[Side], form: str) -> list[Listing]:
    """For programs a row a field and checkpoint; for eyes a column a checkpoint."""
    found = settings_that_differ(store, [side.checkpoint for side in sides])
    rows = setting_rows(sides, found)
    if form == "json":
        return [Listing(rows, SETTING_COLUMNS)]
    if form == "csv":
        plain = [{**row, "value": setting_text(row["value"])} for row in rows]
        return [Listing(plain, SETTING_COLUMNS)]
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
    return [Listing(wide, ["field", *heads], "none")]


def _flips(sides: Sequence[Side], limit: int, form: str) -> list[Listing]:
    base, *others = sides
    found = [one for other in others for one in flip_counts(base, other)]
    rows = [one.as_dict(limit) for one in found]
    if form == "json":
        return [Listing(rows, FLIP_COLUMNS)]
    if form != "table":
        named = [
            {**row, "items": ", ".join(item.item for item in one.items[:limit])}
            for row, one in zip(rows, found, strict=True)
        ]
        return [Listing(named, FLIP_COLUMNS)]
    items = [
        {"bench": one.bench, "other": one.other, **item.as_dict()}
        for one in found
        for item in one.items[:limit]
    ]
    counts = Listing(
        rows,
        [column for column in FLIP_COLUMNS if column != "items"],
        "nothing that both were judged on",
        "right: at least half of what can be had, a rating flips by two points or more; "
        "n: verdicts that both have",
    )
    return [
        counts,
        Listing(
            items,
            ["bench", "other", "item", "category", "metric", "base_value", "other_value", "flip"],
        ),
    ]


def _costs(store: Store, sides: Sequence[Side], form: str) -> list[Listing]:
    found = costs_of(store, [side.checkpoint for side in sides])
    if form in ("json", "csv"):
        return [Listing([cost.as_dict() for cost in found], COST_COLUMNS)]
    rows = [
        {"checkpoint": cost.checkpoint, **{TITLES[k]: text for k, text in cost.texts().items()}}
        for cost in found
    ]
    return [
        Listing(
            rows,
            ["checkpoint", *TITLES.values()],
            "",
            "ancestors: start, teacher, expert and reference, each run once; "
            "≥: some have no figure",
        )
    ]
