"""Commands that import and export results."""

from __future__ import annotations

from functools import partial
from pathlib import Path

import click

from kdharness.harness.analysis.leaderboard import leaderboard
from kdharness.harness.analysis.metrics import is_headline, ranked
from kdharness.harness.cli.export_models import export_gguf_command, export_hf_command
from kdharness.harness.cli.groups import SuggestingGroup
from kdharness.harness.cli.leaderboard import print_scores
from kdharness.harness.cli.options import format_option
from kdharness.harness.evaluation.state import find_checkpoint
from kdharness.harness.interop.alpaca_eval import import_alpaca_eval
from kdharness.harness.interop.export import export_alpaca_eval, export_fastchat
from kdharness.harness.interop.fastchat import ImportSummary, import_fastchat
from kdharness.harness.interop.lm_eval import import_lm_eval
from kdharness.harness.interop.rows import files_below
from kdharness.harness.paths import Paths
from kdharness.harness.reports.model_card import model_card
from kdharness.harness.store import Store
from kdharness.harness.util.atomic import atomic_write_text
from kdharness.harness.util.text import safe_text

published_option = click.option(
    "--as-published",
    is_flag=True,
    help="Compute scores as the benchmark's own script does.",
)


@click.group("import", cls=SuggestingGroup)
def import_group() -> None:
    """Import results of FastChat, alpaca_eval or lm-evaluation-harness."""


def _finish(
    paths: Paths, store: Store, summaries: list[ImportSummary], as_published: bool, form: str
) -> None:
    """Print what was imported and the models' scores."""
    for summary in summaries:
        models = ", ".join(sorted(summary.models))
        line = f"{summary.rows} {summary.kind} rows, {summary.new} new: {models}"
        click.echo(safe_text(line), err=True)
        for note in summary.notes:
            click.echo(f"  {safe_text(note)}", err=True)
    names = {name for summary in summaries for name in summary.models}
    benches = {bench for summary in summaries for bench in summary.benches}
    scores = leaderboard(
        store, paths, checkpoints=names, benches=benches, as_published=as_published
    )
    if form in ("table", "md"):
        scores = [score for score in scores if is_headline(score.metric)]
    print_scores(ranked(scores), form)


@import_group.command("fastchat")
@click.argument("files", nargs=-1, required=True, type=click.Path(exists=True, path_type=Path))
@published_option
@format_option
@click.pass_obj
def fastchat_command(paths: Paths, files: tuple[Path, ...], as_published: bool, form: str) -> None:
    """Import FastChat answers and single or pairwise judgments; importing twice has no effect."""
    paths_to_read = [
        file
        for path in files
        for file in (files_below(path, "*.jsonl") if path.is_dir() else [path])
    ]
    with Store(paths.store) as store:
        summaries = [import_fastchat(store, path) for path in paths_to_read]
        _finish(paths, store, summaries, as_published, form)


def result_files(path: Path) -> list[Path]:
    """Return the files of a results folder: annotations if there are any, else outputs."""
    if not path.is_dir():
        return [path]

    for name in ("*annotations.json", "*model_outputs.json"):
        files = files_below(path, name)
        if files:
            return files
    return [path]


@import_group.command("alpaca-eval")
@click.argument("files", nargs=-1, required=True, type=click.Path(exists=True, path_type=Path))
@click.option("--name", help="Name of the model (default: the `generator` in the file).")
@published_option
@format_option
@click.pass_obj
def alpaca_eval_command(
    paths: Paths, files: tuple[Path, ...], name: str | None, as_published: bool, form: str
) -> None:
    """Import alpaca_eval model outputs or annotations; importing twice has no effect."""
    paths_to_read = [file for path in files for file in result_files(path)]
    with Store(paths.store) as store:
        summaries = [import_alpaca_eval(store, path, name) for path in paths_to_read]
        _finish(paths, store, summaries, as_published, form)


@import_group.command("lm-eval")
@click.argument("files", nargs=-1, required=True, type=click.Path(exists=True, path_type=Path))
@click.option(
    "--ckpt", metavar="PATH", help="The checkpoint that was evaluated (default: as the file says)."
)
@format_option
@click.pass_obj
def lm_eval_command(paths: Paths, files: tuple[Path, ...], ckpt: str | None, form: str) -> None:
    """Import task results of lm-evaluation-harness, with samples where they were logged.

    FILES are results_*.json or folders. Tasks appear as benchmarks lm-eval-TASK. Importing twice
    has no effect.
    """
    with Store(paths.store) as store:
        model = find_checkpoint(ckpt, paths, store).checkpoint if ckpt else None
        summaries = [s for path in files for s in import_lm_eval(store, path, model)]
        _finish(paths, store, summaries, False, form)


@click.group("export", cls=SuggestingGroup)
def export_group() -> None:
    """Write models and results in other tools' formats."""


export_group.add_command(export_gguf_command)
export_group.add_command(export_hf_command)


checkpoint_option = click.option(
    "--ckpt", multiple=True, help="Only these checkpoints (default: all with results)."
)


@export_group.command("fastchat")
@click.argument("folder", type=click.Path(file_okay=False, path_type=Path))
@checkpoint_option
@click.pass_obj
def export_fastchat_command(paths: Paths, folder: Path, ckpt: tuple[str, ...]) -> None:
    """Write MT-Bench answers and judgments to FOLDER in FastChat's layout."""
    for path in export_fastchat(paths, folder, ckpt, partial(click.echo, err=True)):
        click.echo(path)


@export_group.command("alpaca-eval")
@click.argument("folder", type=click.Path(file_okay=False, path_type=Path))
@checkpoint_option
@click.pass_obj
def export_alpaca_command(paths: Paths, folder: Path, ckpt: tuple[str, ...]) -> None:
    """Write model outputs and annotations to FOLDER in alpaca_eval's layout."""
    for path in export_alpaca_eval(paths, folder, ckpt, partial(click.echo, err=True)):
        click.echo(path)


@export_group.command("model-card")
@click.argument("checkpoint")
@click.option(
    "--out",
    type=click.Path(dir_okay=False, path_type=Path),
    help="Write to this file instead of stdout.",
)
@click.pass_obj
def export_card_command(paths: Paths, checkpoint: str, out: Path | None) -> None:
    """Write a Markdown model card: lineage, config, and scores with intervals and judges."""
    text = model_card(paths, checkpoint)
    if out is None:
        click.echo(text)
    else:
        atomic_write_text(out, text)
        click.echo(out)
