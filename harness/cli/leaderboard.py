"""The leaderboard command, and how scores are printed."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from typing import Any

import click

from kdharness.harness.analysis import metrics
from kdharness.harness.analysis.board import (
    MARKS,
    SUSPICIOUS,
    Board,
    BoardColumn,
    difference_mark,
    flag_marks,
    make_board,
)
from kdharness.harness.analysis.judged_answers import headline_metric
from kdharness.harness.analysis.leaderboard import leaderboard, rank_ranges
from kdharness.harness.analysis.metrics import SCORE_COLUMNS
from kdharness.harness.analysis.published import alpaca_scores, paper_scores
from kdharness.harness.analysis.tradeoff import canonical_name, roles
from kdharness.harness.cli.completion import CHECKPOINT
from kdharness.harness.cli.grid import (
    GridColumn,
    aligned,
    decimals_for,
    distinct,
    format_grid,
    interval_parts,
    terminal_width,
)
from kdharness.harness.cli.options import format_option, refuse_unknown, split
from kdharness.harness.config.evaluation import bench_name
from kdharness.harness.paths import Paths
from kdharness.harness.registry import BENCHMARKS
from kdharness.harness.store import Store
from kdharness.harness.types import Score
from kdharness.harness.util.tables import print_table
from kdharness.harness.util.text import safe_text


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
    if form == "table":
        _print_legend(rows)


def _print_legend(rows: Sequence[dict[str, Any]], known: Collection[str] = ()) -> None:
    """Explain the flags of some rows on stderr, except those that are known."""
    for name, text in metrics.explained(flag for row in rows for flag in row["flags"]).items():
        if name not in known:
            click.echo(f"  {name}: {text}", err=True)


@click.command("leaderboard")
@click.option("--bench", multiple=True, help="Only these benchmarks.")
@click.option("--ckpt", multiple=True, type=CHECKPOINT, help="Only these checkpoints.")
@click.option("--metric", multiple=True, help="Only these metrics.")
@click.option("--judge", multiple=True, help="Only these judges.")
@click.option(
    "--all",
    "everything",
    is_flag=True,
    help="List every score, with categories and counts (JSON and CSV always do).",
)
@click.option("--long", "is_long", is_flag=True, help="List one row per score, with its flags.")
@click.option(
    "--reference", metavar="CKPT", type=CHECKPOINT, help="Mark what differs from this checkpoint."
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
    is_long: bool,
    reference: str | None,
    as_published: bool,
    published: bool,
    panel: str,
    form: str,
) -> None:
    """Show checkpoints side by side: each benchmark's primary score, with its 95 % interval.

    Columns that do not fit the terminal follow below; scores of few items or of untested judges
    come last. ▲ and ▼ mark what differs from the reference: by default that of the newest DAE run.
    """
    benches = [bench_name(name) for name in split(bench)] or None
    scores: list[Any] = []
    stored: list[str] = []
    headlines: dict[str, str] = {}
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
            scored = {score.checkpoint for score in scores}
            if reference is not None:
                refuse_unknown("checkpoint", [canonical_name(store, reference)], scored)
            reference = roles(store, scored, reference, None).reference
            notes = store.bench_notes()
            headlines = {bench: headline_metric(notes, bench) for bench in stored}
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
    if form == "table" and not everything and not is_long:
        board = make_board(scores, headlines=headlines, metrics=split(metric), reference=reference)
        print_board(board)
        return
    if form in ("table", "md") and not everything and not metric:
        scores = [score for score in scores if metrics.is_headline(score.metric)]
    print_scores(metrics.ranked(scores), form)


def print_board(board: Board) -> None:
    """Print checkpoints side by side; explain marks, flags and judges on stderr."""
    if not board.columns:
        print_table([], (), "table")
        return
    width = terminal_width()
    judges = list(dict.fromkeys(c.judge for c in board.columns if c.judge != "exact"))
    names = GridColumn(("checkpoint",), tuple(distinct(board.checkpoints, width)))
    groups = [[_grid_column(board, column, judges)] for column in board.columns]
    click.echo(format_grid([names], groups, width, sparse=True))
    shown = [score for column in board.columns for score in column.scores.values()]
    marks = {mark for score in shown for mark in flag_marks(score)}
    marks |= {_difference(board, c, name) for c in board.columns for name in board.checkpoints}
    for number, judge in enumerate(judges, 1):
        click.echo(f"  [{number}] {safe_text(judge)}", err=True)
    for mark, meaning in MARKS.items():
        if mark in marks:
            against = f"reference: {board.reference}; " if mark == "▲" else ""
            click.echo(f"  {mark} {against}{meaning}", err=True)
    _print_legend([score.as_dict() for score in shown], {"judge", *SUSPICIOUS})
    if board.hidden:
        click.echo(
            f"  not shown: {len(board.hidden)} other metrics, such as {board.hidden[0]} "
            "(--metric NAME, or --long for all)",
            err=True,
        )


def _difference(board: Board, column: BoardColumn, name: str) -> str:
    return difference_mark(column, name, board.reference)


def _grid_column(board: Board, column: BoardColumn, judges: Sequence[str]) -> GridColumn:
    """Format one column; marks that all its scores have move to the header."""
    scores = [column.scores.get(name) for name in board.checkpoints]
    marks = [set(flag_marks(score)) for score in scores if score is not None]
    common = "".join(mark for mark in MARKS if all(mark in own for own in marks))
    estimates = [(s.value, s.ci_low, s.ci_high) if s else (None, None, None) for s in scores]
    decimals = decimals_for(estimates)
    cells = [
        (
            *interval_parts(estimate, decimals),
            _difference(board, column, name),
            column.shortfall(score) if score else "",
            "".join(mark for mark in flag_marks(score) if mark not in common) if score else "",
        )
        for name, score, estimate in zip(board.checkpoints, scores, estimates, strict=True)
    ]
    judge = f" [{judges.index(column.judge) + 1}]" if column.judge in judges else ""
    direction = " ↓" if metrics.is_lower_better(column.metric) else ""
    lines = [f"{column.bench}{judge}", f"{column.metric}{direction}", column.variant]
    header = [safe_text(line, 40) for line in lines if line]
    return GridColumn((*header, f"{column.count_text} {common}".rstrip()), tuple(aligned(cells)))


def published_scores(paths: Paths, benches: Sequence[str] | None) -> list[Any]:
    """Return the published scores of some benchmarks, or of all."""
    scores = [*paper_scores(), *alpaca_scores(paths)]
    return [score for score in scores if benches is None or score.bench in benches]
