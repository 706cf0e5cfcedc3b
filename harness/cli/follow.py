"""Follow a run from a terminal until it ends, or leave it to the queue."""

from __future__ import annotations

import click

from kdharness.harness.cli.progress import progress_view
from kdharness.harness.config.training import AnyConfig
from kdharness.harness.paths import Paths
from kdharness.harness.runs import queue
from kdharness.harness.runs.watch import watch
from kdharness.harness.store import Store
from kdharness.harness.types import Run
from kdharness.harness.util.text import safe_text


def follow(paths: Paths, run_id: str, after: int = 0) -> Run:
    """Show a run's progress on stderr until it ends; see `runs.watch`.

    SIGTERM acts like Ctrl-C (`cli.main.sigterm_as_ctrl_c`).

    Args:
        paths: the home.
        run_id: the run.
        after: show its notes after this event: a resumed run has earlier ones.

    Raises:
        Interrupted: the user stopped it.
        RunError: it failed; the message is the run's error.
    """
    with progress_view(run_id, after) as view:
        return watch(paths, run_id, view.show, view.say)


def queue_run(
    paths: Paths, config: AnyConfig, name: str | None, accelerate: str | None = None
) -> str:
    """Store a run behind those in the queue; return its name.

    Raises:
        ConfigError: the name is taken.
    """
    run = queue.add(paths, config, name, accelerate).id
    tell_queued(paths, run)
    return run


def tell_queued(paths: Paths, run_id: str) -> None:
    """Say at which place of the queue a run is, and start the queue's process if needed."""
    queue.keep(paths)
    with Store(paths.store) as store:
        names = [run.id for run in queue.queued(store, paths)]
    place = f"number {names.index(run_id) + 1} in the queue" if run_id in names else "next"
    click.echo(
        f"{safe_text(run_id)} is {place}: it starts when no other run of this home is running "
        "(see: kdharness queue)",
        err=True,
    )
