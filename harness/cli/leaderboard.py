"""The leaderboard command, and how scores are printed."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

import click

from kdharness.harness.analysis import metrics
from kdharness.harness.analysis.leaderboard import leaderboard, rank_ranges
from kdharness.harness.analysis.metrics import LEGEND, SCORE_COLUMNS
from kdharness.harness.analysis.published import alpaca_scores, paper_scores
from kdharness.harness.cli.options import format_option, split
from kdharness.harness.config.evaluation import bench_name
from kdharness.harness.errors import ConfigError, did_you_mean
from kdharness.harness.paths import Paths
from kdharness.harness.registry import BENCHMARKS
from kdharness.harness.store import Store
from kdharness.harness.types import Score
from kdharness.harness.util.tables import print_table


def scores_of(
    paths: Paths, checkpoints: Sequence[str] | None, benches: Sequence[str] | None
) -> list[Any]:
    """Return the stored scores of some checkpoints and benchmarks."""
    if not paths.store.exists():
        return []
    with Store(paths.store) as store:
        return leaderboard(store, paths, checkpoints=checkpoints, benches=benches)


def print_scores(scores: Sequence[Score], form: str) -> None:
    """Print scores as a listing; explain the flags of a table on stderr."""
    rows = [score.as_dict() for score in scores]
    if form in ("table", "md"):
        rows = [{**row, "rank": rank} for row, rank in zip(rows, rank_ranges(scores), strict=True)]
        print_table(rows, ("rank", *SCORE_COLUMNS), form)
    else:
        print_table(rows, SCORE_COLUMNS, form)
    if form != "table":
        return
    flags = {metrics.flag_name(flag) for row in rows for flag in row["flags"]}
    for flag in sorted(flags & set(LEGEND)):
        click.echo(f"  {flag}: {LEGEND[flag]}", err=True)


@click.command("leaderboard")
@click.option("--bench", multiple=True, help="Only these benchmarks.")
@click.option("--ckpt", multiple=True, help="Only these checkpoints.")
@click.option("--metric", multiple=True, help="Only these metrics.")
@click.option("--judge", multiple=True, help="Only these judges.")
@click.option(
    "--all",
    "everything",
    is_flag=True,
    help="Include categories and counts (JSON and CSV always do).",
)
@click.option(
    "--as-published",
    is_flag=True,
    help="Count rows as the benchmarks' own scripts do (for example, re-runs count twice).",
)
@click.option(
    "--published",
    is_flag=True,
    help="Also show published scores: the paper's, and AlpacaEval's if its asset is pulled.",
)
@click.option(
    "--panel",
    type=click.Choice(["mean", "median", "majority", "none"]),
    default="mean",
    help="How to aggregate several judges of the same answers.",
)
@format_option
@click.pass_obj
def leaderboard_command(
    paths: Paths,
    bench: tuple[str, ...],
    ckpt: tuple[str, ...],
    metric: tuple[str, ...],
    judge: tuple[str, ...],
    everything: bool,
    as_published: bool,
    published: bool,
    panel: str,
    form: str,
) -> None:
    """Show every checkpoint's scores with intervals, failures and flags."""
    benches = [bench_name(name) for name in split(bench)] or None
    scores: list[Any] = []
    stored: list[str] = []
    if paths.store.exists():
        with Store(paths.store) as store:
            stored = [group["bench"] for group in store.judgment_groups()]
            requested = [store.checkpoint(name) for name in split(ckpt)]
            names = [c.name for c in store.checkpoints()]
            unknown = [name for name, c in zip(split(ckpt), requested, strict=True) if c is None]
            refuse_unknown("checkpoint", unknown, names)
            scores = leaderboard(
                store,
                paths,
                checkpoints=[c.id for c in requested if c is not None] or None,
                benches=benches,
                as_published=as_published,
                panels=panel,
            )
    known = {*stored, *BENCHMARKS, *(s.bench for s in published_scores(paths, None) if published)}
    refuse_unknown("benchmark", benches or (), known - {"file"})
    if published:
        scores += published_scores(paths, benches)
    refuse_unknown("metric", split(metric), [score.metric for score in scores])
    refuse_unknown("judge", split(judge), [score.judge for score in scores])
    if metric:
        scores = [score for score in scores if score.metric in split(metric)]
    if judge:
        scores = [score for score in scores if score.judge in split(judge)]
    if form in ("table", "md") and not everything and not metric:
        scores = [score for score in scores if metrics.is_headline(score.metric)]
    print_scores(metrics.ranked(scores), form)


def refuse_unknown(kind: str, names: Sequence[str], known: Iterable[str]) -> None:
    """Raise ConfigError for the first unknown name; accept any name if nothing is stored."""
    listed = sorted(set(known))
    for name in names:
        if listed and name not in listed:
            examples = ", ".join(listed[:12]) + (" …" if len(listed) > 12 else "")
            raise ConfigError(
                f"no {kind} {name!r}{did_you_mean(name, listed)}", hint=f"available: {examples}"
            )


def published_scores(paths: Paths, benches: Sequence[str] | None) -> list[Any]:
    """Return the published scores of some benchmarks, or of all."""
    scores = [*paper_scores(), *alpaca_scores(paths)]
    return [score for score in scores if benches is None or score.bench in benches]
