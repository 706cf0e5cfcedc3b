"""Commands about runs: train, runs, show, logs, stop, pause, resume."""

from __future__ import annotations

import json
import time

import click

from kdharness.harness.cli.follow import follow
from kdharness.harness.cli.options import format_option
from kdharness.harness.paths import Paths
from kdharness.harness.runs import launch
from kdharness.harness.runs.status import effective_status, find_run
from kdharness.harness.runs.summary import run_row
from kdharness.harness.store import Store
from kdharness.harness.store.lineage import lineage_lines
from kdharness.harness.types import Request
from kdharness.harness.util.tables import print_table
from kdharness.harness.util.text import safe_text

RUN_COLUMNS = ["run", "method", "status", "step", "max_steps", "loss", "started", "checkpoint"]


@click.command("runs")
@format_option
@click.pass_obj
def runs_command(paths: Paths, form: str) -> None:
    """List every run, newest first."""
    with Store(paths.store) as store:
        print_table([run_row(run) for run in store.runs()], RUN_COLUMNS, form)


@click.command("show")
@click.argument("run")
@click.option("--format", "form", type=click.Choice(["text", "json"]), default="text")
@click.pass_obj
def show_command(paths: Paths, run: str, form: str) -> None:
    """Show one run: status, config, curves' last values, lineage."""
    with Store(paths.store) as store:
        found = find_run(store, run)
        curves = {name: store.curve(run, name)[-1][1] for name in store.curve_names(run)}
        ancestors = lineage_lines(store, found.checkpoint) if found.checkpoint else []
    details = {
        **run_row(found),
        "error": found.error,
        "folder": found.folder,
        "config_hash": found.config_hash,
        "last": curves,
        "info": found.info,
        "lineage": ancestors,
        "config": found.config,
    }
    if form == "json":
        click.echo(json.dumps(details, indent=2, default=str))
        return
    import yaml

    if effective_status(found) is not found.status:
        details["status"] += f" (go on with: kdharness resume {run})"
    click.echo(safe_text(yaml.safe_dump(details, sort_keys=False, allow_unicode=True)), nl=False)


@click.command("logs")
@click.argument("run")
@click.option("-f", "--follow", is_flag=True, help="Go on printing until the run ends.")
@click.option("-n", "--lines", default=200, show_default=True, help="Lines from the end.")
@click.pass_obj
def logs_command(paths: Paths, run: str, follow: bool, lines: int) -> None:
    """Print the output of a run's worker."""
    with Store(paths.store) as store:
        find_run(store, run)
        path = launch.log_path(paths, run)
        click.echo(safe_text(launch.log_tail(paths, run, lines)))
        if not follow:
            return
        with path.open("rb") as stream:
            stream.seek(0, 2)
            while True:
                text = stream.read().decode("utf-8", "replace")
                if text:
                    click.echo(safe_text(text), nl=False)
                elif not effective_status(find_run(store, run)).is_live:
                    return
                else:
                    time.sleep(0.2)


@click.command("stop")
@click.argument("run")
@click.option("--no-wait", is_flag=True, help="Return at once.")
@click.pass_obj
def stop_command(paths: Paths, run: str, no_wait: bool) -> None:
    """Stop a run; it saves a checkpoint first and can be resumed."""
    launch.ask(paths, run, Request.STOP)
    if not no_wait:
        status = effective_status(launch.wait(paths, run))
        click.echo(f"{run} {status.value}", err=True)


@click.command("pause")
@click.argument("run")
@click.pass_obj
def pause_command(paths: Paths, run: str) -> None:
    """Pause a run between two steps; its process and memory stay."""
    launch.ask(paths, run, Request.PAUSE)


@click.command("resume")
@click.argument("run")
@click.option("--detach", is_flag=True, help="Return once the run has started.")
@click.pass_obj
def resume_command(paths: Paths, run: str, detach: bool) -> None:
    """Go on with a run that was paused, stopped, interrupted or failed."""
    launch.resume(paths, run)
    if not detach:
        follow(paths, run)
    click.echo(run)
