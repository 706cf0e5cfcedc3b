"""The runs, show, logs, stop, pause and resume commands."""

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
    """Show a run: status, config, last values of its curves, lineage."""
    with Store(paths.store) as store:
        record = find_run(store, run)
        curves = {name: store.curve(run, name)[-1][1] for name in store.curve_names(run)}
        ancestors = lineage_lines(store, record.checkpoint) if record.checkpoint else []
    details = {
        **run_row(record),
        "error": record.error,
        "folder": record.folder,
        "config_hash": record.config_hash,
        "last": curves,
        "info": record.info,
        "lineage": ancestors,
        "config": record.config,
    }
    if form == "json":
        click.echo(json.dumps(details, indent=2, default=str))
        return
    import yaml

    if effective_status(record) is not record.status:
        details["status"] += f" (resume with: kdharness resume {run})"
    click.echo(safe_text(yaml.safe_dump(details, sort_keys=False, allow_unicode=True)), nl=False)


@click.command("logs")
@click.argument("run")
@click.option("-f", "--follow", is_flag=True, help="Keep printing until the run ends.")
@click.option("-n", "--lines", default=200, show_default=True, help="Number of lines from the end.")
@click.pass_obj
def logs_command(paths: Paths, run: str, follow: bool, lines: int) -> None:
    """Print the log of a run."""
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
@click.option("--no-wait", is_flag=True, help="Return immediately.")
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
    """Pause a run between two steps; its process keeps running and keeps its memory."""
    launch.ask(paths, run, Request.PAUSE)


@click.command("resume")
@click.argument("run")
@click.option("--detach", is_flag=True, help="Return as soon as the run has started.")
@click.pass_obj
def resume_command(paths: Paths, run: str, detach: bool) -> None:
    """Resume a run that was paused, stopped or interrupted, or that failed."""
    launch.resume(paths, run)
    if not detach:
        follow(paths, run)
    click.echo(run)
