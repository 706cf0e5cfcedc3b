"""The replicate command: run an experiment and test its claims."""

from __future__ import annotations

import json
from pathlib import Path

import click

from kdharness.harness.cli.experiments import all_done, execute, print_claims
from kdharness.harness.cli.options import format_option
from kdharness.harness.errors import ConfigError
from kdharness.harness.experiments.expand import find_experiment, load_sweep
from kdharness.harness.experiments.run import state_of
from kdharness.harness.paths import Paths
from kdharness.harness.store import Store
from kdharness.harness.util.tables import print_table
from kdharness.harness.util.untrusted import parse_yaml


@click.command("replicate")
@click.argument("experiment", default="replication")
@click.option(
    "--seeds",
    type=click.IntRange(1, 100),
    metavar="N",
    help="Train with seeds 1 to N instead of the experiment's own.",
)
@click.option(
    "--judge",
    metavar="SPEC",
    help="A real judge, such as openai:MODEL (default: the small model itself, a toy judge).",
)
@click.option(
    "--dry-run", is_flag=True, help="List the runs and their status without starting any."
)
@format_option
@click.pass_context
def replicate_command(
    ctx: click.Context,
    experiment: str,
    seeds: int | None,
    judge: str | None,
    dry_run: bool,
    form: str,
) -> None:
    """Run an experiment and test its claims.

    EXPERIMENT is an experiment file with `claims`; by default the two claims of arXiv 2406.19112
    on a small real model with three seeds: about an hour on 2 cores, 13 GB. After a stop or a
    kill, run the same command again to continue. Each claim holds, fails (does not hold), or is
    inconclusive (can't tell).
    """
    paths: Paths = ctx.obj
    file = find_experiment(experiment)
    sweep, planned = load_sweep(file, _changes(file, seeds, judge))
    if not sweep.claims:
        raise ConfigError(
            "this experiment has no claims",
            where=str(file),
            hint=f"add `claims`, or run: kdharness sweep {experiment}",
        )
    if dry_run:
        with Store(paths.store) as store:
            rows = [
                {"run": run.name, "step": run.step, "status": state_of(store, run)}
                for run in planned
            ]
        print_table(rows, ("run", "step", "status"), form)
        return
    results = execute(paths, file, sweep, planned)
    print_claims(paths, sweep, planned, form)
    if not all_done(results):
        ctx.exit(1)


def _changes(file: Path, seeds: int | None, judge: str | None) -> list[str]:
    """Return the options as overrides of the experiment file."""
    changes = []
    if seeds is not None:
        changes.append(f"vary.seed={json.dumps(list(range(1, seeds + 1)))}")
    if judge is not None:
        raw = parse_yaml(file.read_text("utf-8"), str(file))
        changes += [
            f"steps.{name}.judge={json.dumps([judge])}"
            for name, step in (raw.get("steps") or {}).items()
            if isinstance(step, dict) and step.get("judge")
        ]
    return changes
