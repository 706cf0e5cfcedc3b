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
    the other, whenever no run of this home is running on this machine; a terminal need not stay
    open. After a restart of the machine, this command lets the queue go on.
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
    """Take runs out of the queue; each stays as a stopped run, which can be resumed."""
    _refuse_others(paths, runs)
    with Store(paths.store) as store:
        for run in runs:
            queue.leave(store, run)


@queue_group.command("move")
@click.argument("run", type=RUN)
@click.argument("place", type=click.IntRange(1))
@click.pass_obj
def move_command(paths: Paths, run: str, place: int) -> None:
    """Move a waiting run to PLACE: 1 is the next to start."""
    names = _refuse_others(paths, (run,))
    queue.move(paths, run, min(place, len(names)) - 1 - names.index(run))


def _refuse_others(paths: Paths, runs: tuple[str, ...]) -> list[str]:
    """Return the names in the queue; raise RunError for a run that is not in it."""
    with Store(paths.store) as store:
        names = [run.id for run in queue.queued(store, paths)]
    for run in runs:
        if run not in names:
            raise RunError(
                f"{run} is not in the queue",
                hint=f"it has: {', '.join(names[:8])}" if names else "it is empty",
            )
    return names
