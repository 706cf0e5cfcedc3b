"""The runs, show, logs, stop, pause and resume commands."""

from __future__ import annotations

import json
import shutil
import sys
import time
from pathlib import Path
from typing import Any

import click

from kdharness.harness.cli.completion import RUN
from kdharness.harness.cli.follow import follow, tell_queued
from kdharness.harness.cli.options import format_option, queue_option, refuse_unknown, split
from kdharness.harness.cli.progress import progress_text
from kdharness.harness.errors import ConfigError, Interrupted
from kdharness.harness.paths import Paths
from kdharness.harness.runs import launch
from kdharness.harness.runs import queue as waiting
from kdharness.harness.runs.killing import kill_worker
from kdharness.harness.runs.log_output import TAIL_BYTES, OutputLines, log_path, log_tail
from kdharness.harness.runs.status import effective_status, find_run
from kdharness.harness.runs.summary import run_row
from kdharness.harness.runs.watch import ending_of
from kdharness.harness.store import Store
from kdharness.harness.store.lineage import lineage_lines
from kdharness.harness.store.removal import Annotation
from kdharness.harness.types import Request, Run
from kdharness.harness.util.tables import finite, print_table
from kdharness.harness.util.text import safe_text

STILL_SECONDS = 10.0
POLL_SECONDS = 0.2
WAIT_SECONDS = 3600.0
RUN_COLUMNS = ["run", "method", "status", "step", "max_steps", "loss", "started", "checkpoint"]


@click.command("runs")
@click.option("--tag", multiple=True, help="Only runs with this tag; with several, with all.")
@format_option
@click.pass_obj
def runs_command(paths: Paths, tag: tuple[str, ...], form: str) -> None:
    """List every run, newest first."""
    with Store(paths.store) as store:
        notes = store.annotations()
        rows = [with_annotation(run_row(run), notes.get(("run", run.id))) for run in store.runs()]
    known = [name for (kind, _), found in notes.items() if kind == "run" for name in found.tags]
    if tag and not known:
        raise ConfigError("no run has a tag", hint="add one: kdharness tag RUN TAG")
    refuse_unknown("tag", split(tag), known)
    rows = [row for row in rows if set(split(tag)) <= set(row.get("tags", ()))]
    more = [name for name in ("tags", "note") if any(name in row for row in rows)]
    print_table(rows, [*RUN_COLUMNS, *more], form)


def with_annotation(row: dict[str, Any], found: Annotation | None) -> dict[str, Any]:
    """Add tags and note to a row, where there are any."""
    parts = {"tags": list(found.tags), "note": found.note} if found else {}
    return {**row, **{name: value for name, value in parts.items() if value}}


@click.command("show")
@click.argument("run", type=RUN)
@click.option("--format", "form", type=click.Choice(["text", "json"]), default="text")
@click.pass_obj
def show_command(paths: Paths, run: str, form: str) -> None:
    """Show a run: status, config, last values of its curves, lineage."""
    with Store(paths.store) as store:
        record = find_run(store, run)
        curves = {name: store.curve(run, name)[-1][1] for name in store.curve_names(run)}
        ancestors = lineage_lines(store, record.checkpoint) if record.checkpoint else []
        found = store.annotations().get(("run", record.id))
    details = {
        **with_annotation(run_row(record), found),
        "error": record.error,
        "folder": record.folder,
        "config_hash": record.config_hash,
        "last": curves,
        "info": record.info,
        "lineage": ancestors,
        "config": record.config,
    }
    if form == "json":
        click.echo(json.dumps(finite(details), indent=2, default=str))
        return
    import yaml

    if effective_status(record) is not record.status:
        details["status"] += f" (resume with: kdharness resume {run})"
    click.echo(safe_text(yaml.safe_dump(details, sort_keys=False, allow_unicode=True)), nl=False)


@click.command("logs")
@click.argument("run", type=RUN)
@click.option("-f", "--follow", is_flag=True, help="Keep printing until the run ends.")
@click.option("-n", "--lines", default=200, show_default=True, help="Number of lines from the end.")
@click.pass_obj
def logs_command(paths: Paths, run: str, follow: bool, lines: int) -> None:
    """Print the log of a run, of each progress bar its last state."""
    path = log_path(paths, run)
    with Store(paths.store) as store:
        find_run(store, run)
        try:
            if follow and not path.exists():
                click.echo(f"{run} has no log yet", err=True)
                _wait_for_log(store, run, path)
            if not path.exists():
                click.echo(f"{run} has no log: it did not start", err=True)
            elif follow:
                _follow_log(store, run, path, lines)
            else:
                click.echo(safe_text(log_tail(paths, run, lines)))
        except KeyboardInterrupt:
            message = f"no longer following {run}, which is left as it is"
            raise Interrupted(message, hint=f"stop it: kdharness stop {run}") from None


def _wait_for_log(store: Store, run: str, path: Path) -> None:
    """Wait for a log while its run is starting or waits in the queue."""
    while not path.exists():
        record = find_run(store, run)
        if not effective_status(record).is_live and "queued" not in record.info:
            return
        time.sleep(POLL_SECONDS)


def _follow_log(store: Store, run: str, path: Path, count: int) -> None:
    """Print the last lines of a log, and those that are added until the run ends.

    A progress bar is redrawn on a terminal; elsewhere only its last state is printed.
    """
    redraws = sys.stdout.isatty()
    with path.open("rb") as stream:
        start = stream.seek(max(0, stream.seek(0, 2) - TAIL_BYTES))
        output = OutputLines(cut=start > 0)
        output.feed(stream.read())
        lines = output.take()[-count:] if count > 0 else []
        while True:
            if redraws and lines:
                click.echo("\r\x1b[K", nl=False)
            for line in lines:
                click.echo(safe_text(line))
            if not effective_status(find_run(store, run)).is_live:
                break
            time.sleep(POLL_SECONDS)
            output.feed(stream.read())
            lines = output.take()
            if redraws and (bars := output.lines()):
                width = shutil.get_terminal_size().columns - 1
                click.echo("\r\x1b[K" + safe_text(bars[-1], width), nl=False)
        output.feed(stream.read())
        if redraws:
            click.echo("\r\x1b[K", nl=False)
        for line in output.lines():
            click.echo(safe_text(line))


@click.command("stop")
@click.argument("run", type=RUN)
@click.option("--no-wait", is_flag=True, help="Return immediately.")
@click.option("--kill", is_flag=True, help="Kill it at once: no checkpoint is saved.")
@click.pass_obj
def stop_command(paths: Paths, run: str, no_wait: bool, kill: bool) -> None:
    """Stop a run; it saves a checkpoint first and can be resumed."""
    record = launch.ask(paths, run, Request.STOP)
    if kill:
        with Store(paths.store) as store:
            kill_worker(store, run)
    if no_wait:
        return
    began = time.monotonic()

    def show(current: Run) -> None:
        nonlocal began
        if time.monotonic() - began >= STILL_SECONDS:
            began = time.monotonic()
            click.echo(f"  still waiting: {progress_text(current)}", err=True)

    try:
        if not kill:
            click.echo(f"stopping {run}: {ending_of(record)}", err=True)
        status = effective_status(launch.wait(paths, run, WAIT_SECONDS, show))
    except KeyboardInterrupt:
        raise Interrupted(
            f"no longer waiting; {run} was asked to stop and will",
            hint=f"see: kdharness show {run}; kill it: kdharness stop --kill {run}",
        ) from None
    click.echo(f"{run} {status.value}; resume it with: kdharness resume {run}", err=True)


@click.command("pause")
@click.argument("run", type=RUN)
@click.pass_obj
def pause_command(paths: Paths, run: str) -> None:
    """Pause a run between two steps; its process keeps running and keeps its memory."""
    launch.ask(paths, run, Request.PAUSE)


@click.command("resume")
@click.argument("run", type=RUN)
@click.option("--detach", is_flag=True, help="Return as soon as the run has started.")
@queue_option
@click.pass_obj
def resume_command(paths: Paths, run: str, detach: bool, queue: bool) -> None:
    """Resume a run that was paused, stopped or interrupted, or that failed."""
    if queue:
        waiting.enqueue(paths, run)
        tell_queued(paths, run)
        click.echo(run)
        return
    with Store(paths.store) as store:
        earlier = store.last_events(run, 1)
    launch.resume(paths, run)
    if not detach:
        follow(paths, run, after=earlier[-1]["id"] if earlier else 0)
    click.echo(run)
