"""The queue command: what waits until no run is running."""

from __future__ import annotations

import time

import click

from kdharness.harness.cli.completion import RUN
from kdharness.harness.cli.groups import SuggestingGroup
from kdharness.harness.cli.options import format_option
from kdharness.harness.errors import RunError
from kdharness.harness.experiments.turns import queue_rows
from kdharness.harness.paths import Paths
from kdharness.harness.runs import queue
from kdharness.harness.store import Store
from kdharness.harness.util.tables import print_table

COLUMNS = ["run", "method", "state", "models"]


@click.group("queue", cls=SuggestingGroup, invoke_without_command=True)
@format_option
@click.pass_context
def queue_group(ctx: click.Context, form: str) -> None:
    """List what runs, what follows in its experiment, and what waits.

    `--queue` of train, merge, eval and resume puts a run at the end. Waiting runs start one after
    the other, whenever no run of this home is running on the machine on which they were queued; a
    terminal need not stay open. After that machine was restarted, this command starts the queue
    again.
    """
    if ctx.invoked_subcommand is not None:
        return
    paths: Paths = ctx.obj
    with Store(paths.store) as store:
        rows = [
            {"run": row["id"], **{key: row[key] for key in ("method", "state", "models")}}
            for row in queue_rows(store, paths, time.time())
        ]
    print_table(rows, COLUMNS, form)
    queue.keep(paths)


@queue_group.command("remove")
@click.argument("runs", nargs=-1, required=True, type=RUN)
@click.pass_obj
def remove_command(paths: Paths, runs: tuple[str, ...]) -> None:
    """Remove runs from the queue; each stays as a stopped run, which can be resumed."""
    with Store(paths.store) as store:
        names = [run.id for run in queue.queued(store, paths)]
        missing = [run for run in runs if run not in names]
        # A run may start between the two.
        missing += [] if missing else [run for run in runs if not queue.leave(store, run)]
    if missing:
        raise _not_queued(missing[0], names)


@queue_group.command("move")
@click.argument("run", type=RUN)
@click.argument("place", type=click.IntRange(1))
@click.pass_obj
def move_command(paths: Paths, run: str, place: int) -> None:
    """Move a waiting run to PLACE: 1 is the next to start."""
    if not queue.move(paths, run, place=place):
        with Store(paths.store) as store:
            raise _not_queued(run, [other.id for other in queue.queued(store, paths)])


def _not_queued(run: str, names: list[str]) -> RunError:
    return RunError(
        f"{run} is not in the queue",
        hint=f"it has: {', '.join(names[:8])}" if names else "it is empty",
    )
