"""Commands about experiments: merge, sweep, report."""

from __future__ import annotations

import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import click

from kdharness.harness.errors import ConfigError
from kdharness.harness.experiments.claim_judge import judge_claims
from kdharness.harness.experiments.claims import COLUMNS, finding_lines
from kdharness.harness.experiments.detached import start_sweep
from kdharness.harness.experiments.expand import find_experiment, keep_copy, load_sweep
from kdharness.harness.experiments.run import DONE, prepare, run_sweep, state_of
from kdharness.harness.paths import Paths
from kdharness.harness.reports.blocks import markdown
from kdharness.harness.reports.build import collect
from kdharness.harness.reports.html import page
from kdharness.harness.store import Store
from kdharness.harness.util.atomic import atomic_write_text
from kdharness.harness.util.tables import FORMATS, print_table
from kdharness.harness.util.text import safe_text

if TYPE_CHECKING:
    from kdharness.harness.experiments.expand import PlannedRun, SweepConfig

SWEEP_COLUMNS = ("run", "step", "status", "seconds", "note")


@click.command("sweep")
@click.argument("config", type=click.Path(dir_okay=False))
@click.option("--dry-run", is_flag=True, help="List the runs and how they stand; start nothing.")
@click.option(
    "--detach",
    is_flag=True,
    help="Carry it out in a process of its own, and print that run's name.",
)
@click.option("--format", "form", type=click.Choice(FORMATS), default="table")
@click.pass_context
def sweep_command(ctx: click.Context, config: str, dry_run: bool, detach: bool, form: str) -> None:
    """Run an experiment: several steps that need each other, over a grid or list of settings.

    CONFIG is a file, or the name of an experiment that ships (baselines).
    Finished runs are not repeated, so the same command goes on after a stop. A run that fails
    stops only those that need it; the exit code is then 1. With --detach it is a run itself, to
    be followed, stopped and resumed as any other (kdharness runs, logs, stop, resume).
    """
    paths: Paths = ctx.obj
    file = find_experiment(config)
    sweep, planned = load_sweep(file)
    states = {one.name: state_of(paths, one) for one in planned}
    if dry_run:
        rows = [
            {
                "run": one.name,
                "step": one.step,
                "status": states[one.name],
                "seconds": None,
                "note": "needs " + ", ".join(one.needs) if one.needs else "",
            }
            for one in planned
        ]
        print_table(rows, SWEEP_COLUMNS, form)
        return
    if detach:
        click.echo(start_sweep(paths, file).id)
        return
    keep_copy(paths, file, sweep)
    say, tick = narrators()
    prepare(paths, sweep, say)
    results = run_sweep(paths, planned, say, tick)
    print_table([result.as_dict() for result in results], SWEEP_COLUMNS, form)
    if sweep.claims and form == "table":
        click.echo("")
        print_claims(paths, sweep, planned, form)
    if any(result.status not in DONE for result in results):
        ctx.exit(1)


def narrators() -> tuple[Callable[[str], None], Callable[[str], None]]:
    """(say, tick): lines on stderr, and on a terminal one line below them that changes."""
    live = sys.stderr.isatty()

    def say(text: str) -> None:
        click.echo(("\r\x1b[K" if live else "") + safe_text(text), err=True)

    def tick(text: str) -> None:
        if live:
            click.echo(f"\r\x1b[K{safe_text(text, 76)}", nl=False, err=True)

    return say, tick


def print_claims(
    paths: Paths, sweep: SweepConfig, planned: Sequence[PlannedRun], form: str
) -> None:
    """What holds of an experiment's claims, to stdout."""
    with Store(paths.store) as store:
        findings = judge_claims(store, sweep.claims, planned)
    if form != "table":
        print_table([one.as_dict() for one in findings], COLUMNS, form)
        return
    for line in finding_lines(findings):
        click.echo(safe_text(line))


@click.command("report")
@click.option(
    "--output",
    type=click.Path(dir_okay=False),
    default="report.html",
    show_default=True,
    help="The HTML file; the Markdown twin is written beside it.",
)
@click.option("--title", default="kdharness report", show_default=True)
@click.option(
    "--question",
    default="",
    help="What was to be answered (default: what the experiments run here say).",
)
@click.option("--general", metavar="BENCH:METRIC", help="The trade-off's general axis.")
@click.option("--domain", metavar="BENCH:METRIC", help="The trade-off's domain axis.")
@click.option(
    "--keep",
    type=click.FloatRange(min=0),
    default=0.98,
    show_default=True,
    metavar="SHARE",
    help="The share of general that a picked checkpoint must keep.",
)
@click.option("--transcripts", default=4, show_default=True, help="How many to show.")
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
    """Write all that is known here as one HTML file and its Markdown twin."""
    target = Path(output)
    if target.suffix.lower() == ".md":
        raise ConfigError(
            "the report is HTML, its Markdown twin is written beside it",
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
            talks=transcripts,
        )
    twin = target.with_suffix(".md")
    try:
        atomic_write_text(target, page(title, blocks))
        atomic_write_text(twin, markdown(title, blocks))
    except OSError as error:
        raise ConfigError(
            f"cannot write the report: {error.strerror}",
            where=output,
            hint="name a file in a folder that exists",
        ) from error
    click.echo(str(target))
    click.echo(str(twin))
