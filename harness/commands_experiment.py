"""Commands about experiments: merge, sweep."""

from __future__ import annotations

import sys

import click

from kdharness.harness.paths import Paths
from kdharness.harness.tables import FORMATS, print_table, safe_text

SWEEP_COLUMNS = ("run", "step", "status", "seconds", "note")


@click.command("merge")
@click.argument("config", type=click.Path(dir_okay=False))
@click.option("--set", "overrides", multiple=True, metavar="A.B=VALUE",
              help="Change one field of the config; may be given more than once.")
@click.option("--name", help="The run's name.")
@click.pass_obj
def merge_command(
    paths: Paths, config: str, overrides: tuple[str, ...], name: str | None
) -> None:
    """Put models' weights together as CONFIG says: WiSE-FT curve, average, task arithmetic.

    Prints the checkpoints that were made.
    """
    from kdharness.harness import launch
    from kdharness.harness.config import load_config
    from kdharness.harness.errors import ConfigError
    from kdharness.harness.store import Store

    parsed = load_config(config, overrides)
    if parsed.method != "merge":
        raise ConfigError(f"this is a config for {parsed.method}, not for merge", where=config,
                          hint=f"run: kdharness train {config}")
    run = launch.start(paths, parsed, name=name)
    launch.follow(paths, run.id)
    with Store(paths.store) as store:
        for checkpoint in store.checkpoints(run.id):
            click.echo(checkpoint.name)


@click.command("sweep")
@click.argument("config", type=click.Path(dir_okay=False))
@click.option("--dry-run", is_flag=True, help="List the runs and how they stand; start nothing.")
@click.option("--format", "form", type=click.Choice(FORMATS), default="table")
@click.pass_context
def sweep_command(ctx: click.Context, config: str, dry_run: bool, form: str) -> None:
    """Run an experiment: several steps that need each other, over a grid or list of settings.

    Finished runs are not repeated, so the same command goes on after a stop. A run that fails
    stops only those that need it; the exit code is then 1.
    """
    from kdharness.harness.sweep import keep_copy, load_sweep
    from kdharness.harness.sweep_run import DONE, run_sweep, state_of

    paths: Paths = ctx.obj
    sweep, planned = load_sweep(config)
    states = {one.name: state_of(paths, one) for one in planned}
    if dry_run:
        rows = [
            {"run": one.name, "step": one.step, "status": states[one.name], "seconds": None,
             "note": "needs " + ", ".join(one.needs) if one.needs else ""}
            for one in planned
        ]  # fmt: skip
        print_table(rows, SWEEP_COLUMNS, form)
        return
    keep_copy(paths, config, sweep)
    live = sys.stderr.isatty()

    def tick(text: str) -> None:
        if live:
            click.echo(f"\r\x1b[K{safe_text(text, 76)}", nl=False, err=True)

    def say(text: str) -> None:
        click.echo(("\r\x1b[K" if live else "") + safe_text(text), err=True)

    results = run_sweep(paths, planned, say, tick)
    print_table([result.as_dict() for result in results], SWEEP_COLUMNS, form)
    if any(result.status not in DONE for result in results):
        ctx.exit(1)
