"""Wait for a run to end, and turn its end into a result or an error."""

from __future__ import annotations

import time
from collections.abc import Callable

from kdharness.harness.errors import Interrupted, RunError
from kdharness.harness.paths import Paths
from kdharness.harness.runs.killing import kill_worker
from kdharness.harness.runs.log_output import log_tail
from kdharness.harness.runs.status import effective_status, find_run
from kdharness.harness.store import Store
from kdharness.harness.types import Method, Request, Run, RunStatus

POLL_SECONDS = 0.2


def watch(
    paths: Paths,
    run_id: str,
    show: Callable[[Run, Store], None],
    say: Callable[[str], None],
) -> Run:
    """Watch a run until it ends.

    Ctrl-C asks the run to stop with a checkpoint and waits for it; a second one kills it.

    Args:
        show: called a few times per second with the current run.
        say: called with a message after Ctrl-C.

    Raises:
        Interrupted: the run was stopped or killed.
        RunError: it failed; the message is the run's error.
    """
    with Store(paths.store) as store:
        last = ending_of(find_run(store, run_id))

        def say_stopping() -> None:
            say(f"stopping {run_id}: {last} (Ctrl-C again to kill it)")

        run, _ = poll(store, run_id, lambda run, _: show(run, store), say_stopping)
    return finished(paths, run)


def ending_of(run: Run) -> str:
    """Return what a run does when it is asked to stop."""
    if run.method == Method.EVAL:
        return "finishing calls in flight"
    return "stopping its current runs" if run.method == Method.SWEEP else "saving a checkpoint"


def poll(
    store: Store,
    run_id: str,
    show: Callable[[Run, bool], None],
    on_stop: Callable[[], None] | None = None,
) -> tuple[Run, bool]:
    """Poll a run until it ends; return it, and whether it was asked to stop from here.

    Ctrl-C, or `Interrupted` from `show`, asks the run to stop with a checkpoint; a second Ctrl-C
    kills it.

    Args:
        show: called a few times per second, and once at the end, with the run and whether it was
            asked to stop.
        on_stop: called before the run is asked to stop.

    Raises:
        Interrupted: it was killed.
    """
    stopping = False

    def stop() -> None:
        nonlocal stopping
        stopping = True
        if on_stop is not None:
            on_stop()
        store.request(run_id, Request.STOP)

    while True:
        try:
            run = find_run(store, run_id)
            try:
                show(run, stopping)
            except Interrupted:
                if not stopping:
                    stop()
            if not effective_status(run).is_live:
                return run, stopping
            time.sleep(POLL_SECONDS)
        except KeyboardInterrupt:
            if not stopping:
                stop()
                continue
            kill_worker(store, run_id)
            raise Interrupted(
                f"{run_id} was killed; what it had stored is kept",
                hint=f"resume it with: kdharness resume {run_id}",
            ) from None


def finished(paths: Paths, run: Run) -> Run:
    """Return the run if it has finished.

    Raises:
        Interrupted: it was stopped.
        RunError: it failed, or its process is gone.
    """
    status = effective_status(run)
    if status is RunStatus.STOPPED:
        raise Interrupted(
            f"{run.id} was stopped", hint=f"resume it with: kdharness resume {run.id}"
        )
    if status is not RunStatus.FINISHED:
        reason = run.error or f"its process is gone\n{log_tail(paths, run.id, 10)}"
        raise RunError(f"{run.id} {status.value}: {reason}", hint=f"see: kdharness logs {run.id}")
    return run
