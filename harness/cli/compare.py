"""The compare command: paired differences, settings, flips and costs."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import click

from kdharness.harness.analysis.compare import (
    COMPARISON_COLUMNS,
    changed_between,
    compare_sides,
    sides_of,
)
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
from kdharness.harness.cli.completion import CHECKPOINT
from kdharness.harness.cli.differences import HOLM, NONE_SHARED, print_differences
from kdharness.harness.cli.options import format_option, split
from kdharness.harness.config.evaluation import bench_name
from kdharness.harness.paths import Paths
from kdharness.harness.store import Store
from kdharness.harness.util.tables import print_table
from kdharness.harness.util.text import safe_text

if TYPE_CHECKING:
    from kdharness.harness.analysis.compare import PairedComparison, Side


# ---------------------------------------------------------------- compare


PARTS = {
    "differences": "Paired differences",
    "settings": "Settings that differ",
    "flips": "Flipped items",
    "cost": "Cost per checkpoint",
}


@dataclass(frozen=True)
class Listing:
    """One listing of `compare`; `empty` is printed if it has no rows, `note` follows on stderr."""

    rows: Sequence[dict[str, Any]]
    columns: Sequence[str]
    empty: str = ""
    note: str = ""


@click.command("compare")
@click.argument("checkpoints", nargs=-1, required=True, type=CHECKPOINT)
@click.option(
    "--what",
    type=click.Choice(list(PARTS)),
    help="Show only this part. Default: all parts as tables; differences in other formats.",
)
@click.option("--bench", multiple=True, help="Only these benchmarks.")
@click.option("--metric", multiple=True, help="Only these metrics (differences only).")
@click.option("--all", "everything", is_flag=True, help="Include categories (JSON always does).")
@click.option(
    "--long",
    "is_long",
    is_flag=True,
    help="List differences one row per score and checkpoint, with the p-value before correction.",
)
@click.option(
    "--flips",
    "limit",
    type=click.IntRange(0),
    default=5,
    show_default=True,
    metavar="N",
    help="Number of flipped items to list per benchmark and judge.",
)
@format_option
@click.pass_obj
def compare_command(
    paths: Paths,
    checkpoints: tuple[str, ...],
    what: str | None,
    bench: tuple[str, ...],
    metric: tuple[str, ...],
    everything: bool,
    is_long: bool,
    limit: int,
    form: str,
) -> None:
    """Compare checkpoints with the first one.

    Shows paired differences over the items that both answered, the settings that differ, the
    items that flipped, and the cost of each checkpoint.
    """
    benches = {bench_name(name) for name in split(bench)}
    parts = [what] if what else list(PARTS) if form == "table" else ["differences"]
    with Store(paths.store) as store:
        sides = sides_of(store, checkpoints, benches)

        def found(all_metrics: bool) -> list[PairedComparison]:
            return _differences(store, paths, sides, set(split(metric)), everything or all_metrics)

        listings: dict[str, Callable[[], list[Listing]]] = {
            "differences": lambda: [
                Listing(
                    [pair.as_dict() for pair in found(form in ("json", "csv"))],
                    COMPARISON_COLUMNS,
                    NONE_SHARED,
                    HOLM + "; n_needed: items needed to detect a difference of this size "
                    "(80 % power)",
                )
            ],
            "settings": lambda: _settings(store, sides, form),
            "flips": lambda: _flips(sides, limit, form),
            "cost": lambda: _costs(store, sides, form),
        }
        for index, part in enumerate(parts):
            if len(parts) > 1:
                click.echo(PARTS[part] if index == 0 else f"\n{PARTS[part]}")
            if part == "differences" and form == "table" and not is_long:
                print_differences(found(False), [side.name for side in sides])
                continue
            for listing in listings[part]():
                _print_listing(listing, form)
        if "differences" in parts:
            for sentence in changed_between(store, sides):
                click.echo(f"note: {safe_text(sentence)}", err=True)


def _print_listing(listing: Listing, form: str) -> None:
    if not listing.rows and form == "table":
        if listing.empty:
            click.echo(listing.empty)
        return
    print_table(listing.rows, listing.columns, form)
    if listing.note and form == "table":
        click.echo(f"  {listing.note}", err=True)


def _differences(
    store: Store, paths: Paths, sides: Sequence[Side], metrics: set[str], everything: bool
) -> list[PairedComparison]:
    return [
        comparison
        for comparison in compare_sides(store, paths, sides)
        if (not metrics or comparison.metric in metrics)
        and (everything or metrics or is_headline(comparison.metric))
    ]


def _settings(store: Store, sides: Sequence[Side], form: str) -> list[Listing]:
    """List one row per field and checkpoint for programs, one column per checkpoint for people."""
    differences = settings_that_differ(store, [side.checkpoint for side in sides])
    rows = setting_rows(sides, differences)
    if form == "json":
        return [Listing(rows, SETTING_COLUMNS)]
    if form == "csv":
        plain = [{**row, "value": setting_text(row["value"])} for row in rows]
        return [Listing(plain, SETTING_COLUMNS)]
    # The number keeps columns distinct when a checkpoint is named twice. Headers are printed
    # unescaped, so a name must not contain a line break or a column separator.
    headers = [
        safe_text(f"{number} {side.name}".replace("\n", " "), 40).replace("|", "\\|")
        for number, side in enumerate(sides, 1)
    ]
    wide = [
        {"field": field, **dict(zip(headers, map(setting_text, values), strict=True))}
        for field, values in differences
    ]
    return [Listing(wide, ["field", *headers], "none")]


def _flips(sides: Sequence[Side], limit: int, form: str) -> list[Listing]:
    base, *others = sides
    counts = [flips for other in others for flips in flip_counts(base, other)]
    rows = [flips.as_dict(limit) for flips in counts]
    if form == "json":
        return [Listing(rows, FLIP_COLUMNS)]
    if form != "table":
        named = [
            {**row, "items": ", ".join(item.item for item in flips.items[:limit])}
            for row, flips in zip(rows, counts, strict=True)
        ]
        return [Listing(named, FLIP_COLUMNS)]
    items = [
        {"bench": flips.bench, "other": flips.other, **item.as_dict()}
        for flips in counts
        for item in flips.items[:limit]
    ]
    summary = Listing(
        rows,
        [column for column in FLIP_COLUMNS if column != "items"],
        NONE_SHARED,
        "right: at least half of the possible score; a rating flips when it moves by two points or "
        "more; n: judgments that both have",
    )
    return [
        summary,
        Listing(
            items,
            ["bench", "other", "item", "category", "metric", "base_value", "other_value", "flip"],
        ),
    ]


def _costs(store: Store, sides: Sequence[Side], form: str) -> list[Listing]:
    costs = costs_of(store, [side.checkpoint for side in sides])
    if form in ("json", "csv"):
        return [Listing([cost.as_dict() for cost in costs], COST_COLUMNS)]
    rows = [
        {"checkpoint": cost.checkpoint, **{TITLES[k]: text for k, text in cost.texts().items()}}
        for cost in costs
    ]
    return [
        Listing(
            rows,
            ["checkpoint", *TITLES.values()],
            "",
            "ancestors: initial student, teacher, expert and reference; each run counts once; "
            "≥: a lower bound, because some runs have no stored value",
        )
    ]
