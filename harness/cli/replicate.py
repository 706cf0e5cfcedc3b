"""The replicate command: run an experiment and test its claims."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path

import click

from kdharness.harness.cli.experiments import all_done, claim_results, execute, print_findings
from kdharness.harness.cli.options import format_option, jobs_option
from kdharness.harness.config.evaluation import EvalConfig
from kdharness.harness.errors import ConfigError
from kdharness.harness.experiments.choose import best_of, candidates, choice_lines
from kdharness.harness.experiments.chosen_test import check_test, load_test
from kdharness.harness.experiments.claim_judge import judge_claims
from kdharness.harness.experiments.claims import ClaimResult
from kdharness.harness.experiments.expand import (
    PlannedRun,
    SweepConfig,
    find_experiment,
    load_sweep,
)
from kdharness.harness.experiments.parts import FIRST, PART_COLUMNS, PARTS, part_lines, read_parts
from kdharness.harness.experiments.run import state_of
from kdharness.harness.experiments.smoke import load_smoke
from kdharness.harness.paths import Paths
from kdharness.harness.store import Store
from kdharness.harness.util.tables import print_table
from kdharness.harness.util.text import safe_text


@click.command("replicate")
@click.argument("experiment", required=False)
@click.option(
    "--list",
    "listing",
    is_flag=True,
    help="List the parts: question, claims, time, disk, and what is done in this home.",
)
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
    "--smoke",
    is_flag=True,
    help="Two steps and a few items of each run, to test this machine; no result.",
)
@click.option(
    "--dry-run", is_flag=True, help="List the runs and their status without starting any."
)
@jobs_option
@format_option
@click.pass_context
def replicate_command(
    ctx: click.Context,
    experiment: str | None,
    listing: bool,
    seeds: int | None,
    judge: str | None,
    smoke: bool,
    dry_run: bool,
    jobs: int | None,
    form: str,
) -> None:
    """Run an experiment and test its claims.

    EXPERIMENT is an experiment file with `claims`, or a part of the replication (--list). The
    default is the first edition: the two claims of arXiv 2406.19112 on a small real model with
    three seeds, about an hour on 2 cores, 13 GB. Parts share what they have in common. After a
    stop or a kill, run the same command again to continue. Each claim holds, fails (does not
    hold), or is inconclusive (can't tell), by its own interval and after Holm's correction over
    all claims of the experiment.
    """
    paths: Paths = ctx.obj
    if listing:
        if any(given is not None for given in (seeds, judge, jobs)) or smoke or dry_run:
            raise ConfigError("--list cannot be combined with other options", where="--list")
        _print_parts(paths, experiment, form)
        return
    experiment = experiment or FIRST[0]
    file = find_experiment(experiment)
    if smoke:
        if seeds is not None or judge is not None:
            raise ConfigError("--smoke cannot be combined with --seeds or --judge", where="--smoke")
        sweep, planned = load_smoke(file)
    else:
        sweep, planned = load_sweep(file, _changes(file, seeds, judge))
    if not sweep.claims and sweep.choose is None:
        raise ConfigError(
            "this experiment has no claims",
            where=str(file),
            hint=f"add `claims`, or run: kdharness sweep {experiment}",
        )
    check_test(file, sweep, planned)
    if dry_run:
        _print_runs(paths, planned, form)
        return
    results = execute(paths, file, sweep, planned, jobs)
    if smoke:
        click.echo(f"{sum(r.status == 'failed' for r in results)} of {len(results)} runs failed")
    done = all_done(results)
    if not smoke:
        findings = claim_results(paths, sweep, planned)
        if form == "table" or sweep.choose is None or not done:
            print_findings(findings, form)
        if sweep.choose is not None and done:
            done = _test_choice(paths, file, sweep, planned, findings, form, judge, jobs)
    if not done:
        ctx.exit(1)


def _print_parts(paths: Paths, only: str | None, form: str) -> None:
    if only is not None and only not in PARTS:
        raise ConfigError(
            f"{only!r} is not a part of the replication",
            where="--list",
            hint=f"parts: {', '.join(PARTS)}; a file's runs: --dry-run",
        )
    with Store(paths.store) as store:
        parts = [part for part in read_parts(store) if only in (None, part.name)]
    if form != "table":
        print_table([part.as_dict() for part in parts], PART_COLUMNS, form)
        return
    for part in parts:
        for line in part_lines(part):
            click.echo(safe_text(line))
    click.echo("run one: kdharness replicate PART (parts share what they have in common)", err=True)


def _print_runs(paths: Paths, planned: Sequence[PlannedRun], form: str) -> None:
    with Store(paths.store) as store:
        rows = [
            {"run": run.name, "step": run.step, "status": state_of(store, run)} for run in planned
        ]
    print_table(rows, ("run", "step", "status"), form)


def _test_choice(
    paths: Paths,
    file: Path,
    sweep: SweepConfig,
    planned: Sequence[PlannedRun],
    before: list[ClaimResult],
    form: str,
    judge: str | None,
    jobs: int | None,
) -> bool:
    """Choose the best settings, run the experiment that tests them; return whether all is done.

    Args:
        before: results of the search's own claims, which are part of the same listing.
    """
    earlier = [] if form == "table" else before
    spec = sweep.choose
    assert spec is not None
    with Store(paths.store) as store:
        found = candidates(judge_claims(store, spec.claims(), planned))
    best = best_of(found, spec.keep)
    for line in choice_lines(found, best, spec.keep):
        click.echo(safe_text(line), err=form != "table")
    if best is None:
        if form != "table":
            print_findings(earlier, form)
        return True
    test_file, test, runs = load_test(file, sweep, best.settings)
    if judge is not None:
        changes = _judge_changes(runs, judge)
        test_file, test, runs = load_test(file, sweep, best.settings, changes)
    results = execute(paths, test_file, test, runs, jobs)
    print_findings([*earlier, *claim_results(paths, test, runs)], form)
    return all_done(results)


def _changes(file: Path, seeds: int | None, judge: str | None) -> list[str]:
    """Return the options as overrides of the experiment file.

    Raises:
        ConfigError: the experiment has nothing that an option could apply to.
    """
    if seeds is None and judge is None:
        return []
    sweep, planned = load_sweep(file)
    changes = []
    if seeds is not None:
        if not isinstance(sweep.vary, dict):
            raise ConfigError(
                "--seeds does not apply to an experiment whose `vary` is a list",
                where=str(file),
                hint="change the seeds in its own mappings",
            )
        if sweep.choose is not None:
            raise ConfigError(
                "--seeds does not apply to an experiment that chooses settings: its test needs "
                "seeds of its own",
                where=str(file),
                hint=f"change the seeds in its `vary`, and in that of {sweep.choose.test}",
            )
        changes.append(f"vary.seed={json.dumps(list(range(1, seeds + 1)))}")
    if judge is not None:
        found = _judge_changes(planned, judge)
        tested = [] if sweep.choose is None else load_test(file, sweep, {})[2]
        if not found and not _judge_changes(tested, judge):
            raise ConfigError(
                "--judge does not apply to an experiment without judged answers", where=str(file)
            )
        changes += found
    return changes


def _judge_changes(planned: Sequence[PlannedRun], judge: str) -> list[str]:
    """Return the judge as an override of every judged step."""
    steps = dict.fromkeys(run.step for run in planned if _has_judge(run))
    return [f"steps.{name}.judge={json.dumps([judge])}" for name in steps]


def _has_judge(run: PlannedRun) -> bool:
    return isinstance(run.config, EvalConfig) and bool(run.config.judge)
