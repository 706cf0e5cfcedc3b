"""The sweep and report commands."""

from __future__ import annotations

import sys
from collections.abc import Callable, Sequence
from pathlib import Path

import click

from kdharness.harness.cli.options import format_option, jobs_option
from kdharness.harness.errors import ConfigError, Interrupted
from kdharness.harness.experiments.chosen_test import check_test
from kdharness.harness.experiments.claim_judge import judge_claims
from kdharness.harness.experiments.claims import COLUMNS, ClaimResult, finding_lines
from kdharness.harness.experiments.detached import start_sweep, what_failed
from kdharness.harness.experiments.expand import (
    PlannedRun,
    SweepConfig,
    find_experiment,
    keep_copy,
    load_sweep,
)
from kdharness.harness.experiments.run import DONE, Result, prepare, run_sweep, state_of
from kdharness.harness.paths import Paths
from kdharness.harness.reports.blocks import markdown
from kdharness.harness.reports.build import collect
from kdharness.harness.reports.html import page
from kdharness.harness.runs.notify import tell_experiment
from kdharness.harness.store import Store
from kdharness.harness.types import RunStatus
from kdharness.harness.util.atomic import atomic_write_text
from kdharness.harness.util.tables import print_table
from kdharness.harness.util.text import safe_text

SWEEP_COLUMNS = ("run", "step", "status", "seconds", "note")


@click.command("sweep")
@click.argument("config", type=click.Path(dir_okay=False))
@click.option(
    "--dry-run", is_flag=True, help="List the runs and their status without starting any."
)
@click.option(
    "--detach",
    is_flag=True,
    help="Run in the background and print the name of the run.",
)
@jobs_option
@format_option
@click.pass_context
def sweep_command(
    ctx: click.Context, config: str, dry_run: bool, detach: bool, jobs: int | None, form: str
) -> None:
    """Run an experiment: several steps that depend on each other, over a grid or list of settings.

    CONFIG is a file, or the name of an experiment that ships with kdharness (baselines).
    Finished runs are not repeated: run the same command again to continue after a stop. If a run
    fails, the runs that depend on it are skipped and the exit code is 1. With --detach the
    experiment is a run itself, which can be followed, stopped and resumed like any other
    (kdharness runs, logs, stop, resume).
    """
    paths: Paths = ctx.obj
    file = find_experiment(config)
    sweep, planned = load_sweep(file)
    check_test(file, sweep, planned)
    with Store(paths.store) as store:
        states = {run.name: state_of(store, run) for run in planned}
    if dry_run:
        rows = [
            {
                "run": run.name,
                "step": run.step,
                "status": states[run.name],
                "seconds": None,
                "note": "needs " + ", ".join(run.needs) if run.needs else "",
            }
            for run in planned
        ]
        print_table(rows, SWEEP_COLUMNS, form)
        return
    if detach:
        click.echo(start_sweep(paths, file, jobs=jobs).id)
        return
    results = execute(paths, file, sweep, planned, jobs)
    print_table([result.as_dict() for result in results], SWEEP_COLUMNS, form)
    if sweep.claims and form == "table":
        click.echo("")
        print_findings(claim_results(paths, sweep, planned), form)
    if sweep.choose is not None:
        click.echo(
            f"to choose the best settings and test them: kdharness replicate {config}", err=True
        )
    if not all_done(results):
        ctx.exit(1)


def execute(
    paths: Paths,
    file: Path,
    sweep: SweepConfig,
    planned: Sequence[PlannedRun],
    jobs: int | None = None,
) -> list[Result]:
    """Keep a copy of an experiment in the home, pull its assets and execute its runs.

    However that ends is told by the user's command: its runs alone are no news.

    Args:
        paths: the home.
        file: the experiment's file.
        sweep: the experiment.
        planned: its runs.
        jobs: how many at once, instead of the experiment's own number.
    """
    say, tick = progress_printers()
    try:
        keep_copy(paths, file, sweep)
        prepare(paths, sweep, say)
        results = run_sweep(paths, planned, say, tick, jobs=jobs or sweep.jobs)
    except (Interrupted, KeyboardInterrupt):
        tell_experiment(paths, sweep.name, RunStatus.STOPPED)
        raise
    except Exception as error:
        tell_experiment(paths, sweep.name, RunStatus.FAILED, str(error))
        raise
    failure = what_failed(results)
    status = RunStatus.FAILED if failure else RunStatus.FINISHED
    tell_experiment(paths, sweep.name, status, failure)
    return results


def all_done(results: Sequence[Result]) -> bool:
    """Return whether every run has finished, now or before."""
    return all(result.status in DONE for result in results)


def progress_printers() -> tuple[Callable[[str], None], Callable[[str], None]]:
    """Return (say, tick): print lines to stderr, and on a terminal update a status line below."""
    live = sys.stderr.isatty()

    def say(text: str) -> None:
        click.echo(("\r\x1b[K" if live else "") + safe_text(text), err=True)

    def tick(text: str) -> None:
        if live:
            click.echo(f"\r\x1b[K{safe_text(text, 76)}", nl=False, err=True)

    return say, tick


def claim_results(
    paths: Paths, sweep: SweepConfig, planned: Sequence[PlannedRun]
) -> list[ClaimResult]:
    """Return the results of an experiment's claims."""
    with Store(paths.store) as store:
        return judge_claims(store, sweep.claims, planned)


def print_findings(results: Sequence[ClaimResult], form: str) -> None:
    """Print the results of claims to stdout."""
    if form != "table":
        print_table([result.as_dict() for result in results], COLUMNS, form)
        return
    for line in finding_lines(results):
        click.echo(safe_text(line))


@click.command("report")
@click.option(
    "--output",
    type=click.Path(dir_okay=False),
    default="report.html",
    show_default=True,
    help="The HTML file; a Markdown version is written next to it.",
)
@click.option("--title", default="kdharness report", show_default=True, help="Report title.")
@click.option(
    "--question",
    default="",
    help="The question the report answers (default: those of the experiments in this home).",
)
@click.option("--general", metavar="BENCH:METRIC", help="The trade-off's general axis.")
@click.option("--domain", metavar="BENCH:METRIC", help="The trade-off's domain axis.")
@click.option(
    "--keep",
    type=click.FloatRange(min=0),
    default=0.98,
    show_default=True,
    metavar="SHARE",
    help="Minimum retention of the general score for a checkpoint to be picked.",
)
@click.option("--transcripts", default=4, show_default=True, help="Number of transcripts to show.")
@click.pass_obj
def report_command(
    paths: Paths,
    output: str,
    title: str,
    question: str,
    general: str | None,
    domain: str | None,
    keep: float,
    transcripts: int,
) -> None:
    """Write a report on this home as one HTML file and as Markdown."""
    target = Path(output)
    if target.suffix.lower() == ".md":
        raise ConfigError(
            "the report is HTML; a Markdown version is written next to it",
            where="--output",
            hint=f"use {target.with_suffix('.html')}",
        )
    with Store(paths.store) as store:
        blocks = collect(
            store,
            paths,
            question=question,
            keep=keep,
            general=general,
            domain=domain,
            transcripts=transcripts,
        )
    markdown_path = target.with_suffix(".md")
    if markdown_path.exists() and not target.exists():
        raise ConfigError(
            f"the report's Markdown would replace {markdown_path}, which is no report",
            where="--output",
            hint="choose another name for the report, or move that file",
        )
    try:
        atomic_write_text(target, page(title, blocks))
        atomic_write_text(markdown_path, markdown(title, blocks))
    except OSError as error:
        raise ConfigError(
            f"cannot write the report: {error.strerror}",
            where=output,
            hint="choose a file in an existing folder",
        ) from error
    click.echo(str(target))
    click.echo(str(markdown_path))
