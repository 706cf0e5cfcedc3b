"""Runs that wait for the running ones to end: `python -m kdharness.harness.runs.queue HOME`.

A queued run is a stopped run with a place in the queue, so that it is renamed, removed and kept
like any other. A process of its own, which outlives the app, resumes the first one whenever no run
of this home is live on this machine, and ends with the queue. Other homes are not looked at.
"""

from __future__ import annotations

import socket
import sqlite3
import sys
import time
from pathlib import Path

import filelock

from kdharness.harness.config.training import AnyConfig
from kdharness.harness.errors import KDHarnessError, RunError
from kdharness.harness.paths import Paths, find_paths
from kdharness.harness.runs import launch
from kdharness.harness.runs.status import effective_status, find_run, info_without, is_here
from kdharness.harness.store import Store
from kdharness.harness.types import Run, RunStatus
from kdharness.harness.util.detached import start_detached

POLL_SECONDS = 1.0
SETTLE_SECONDS = 4.0
"""How long nothing must run: the runs of an experiment follow each other at once."""
WAITING = (RunStatus.STOPPED, RunStatus.INTERRUPTED, RunStatus.FAILED)


def queued(store: Store, paths: Paths) -> list[Run]:
    """Return the queued runs in their order.

    In a copied home those of the original are left out: they would run twice.
    """
    waiting = [run for run in store.runs_noting("queued") if "queued" in run.info]
    here = [run for run in waiting if _is_ours(run, paths)]
    return sorted((run for run in here if effective_status(run) in WAITING), key=_place)


def _is_ours(run: Run, paths: Paths) -> bool:
    """Return whether a run was queued in this home, which may have been moved here since.

    Of a home on another machine nothing is known: there this one may be a copy.
    """
    home = run.info["queued"][1]
    if home == str(paths.home):
        return True
    try:
        return Path(home).samefile(paths.home)
    except FileNotFoundError:
        return is_here(run)
    except OSError:
        return False


def _place(run: Run) -> tuple[float, float]:
    return float(run.info["queued"][0]), run.created


def add(
    paths: Paths, config: AnyConfig, name: str | None = None, accelerate: str | None = None
) -> Run:
    """Store a run behind those in the queue. What it needs is looked at when it starts.

    Raises:
        ConfigError: its name is taken.
    """
    run = launch.add_stopped(paths, config, name, accelerate)
    return enqueue(paths, run.id)


def enqueue(paths: Paths, run_id: str) -> Run:
    """Put a run that is not running behind those in the queue.

    Raises:
        RunError: it is live or finished.
    """
    with Store(paths.store) as store, store.writing():
        run = find_run(store, run_id)
        if (status := effective_status(run)) not in WAITING:
            raise RunError(f"{run_id} is {status.value}: only what can be resumed waits in a queue")
        last = max((_place(other)[0] for other in queued(store, paths)), default=0.0)
        _put(store, paths, run, last + 1)
        # On a shared home each machine starts what was queued on it.
        store.update_run(run_id, host=socket.gethostname())
        return find_run(store, run_id)


def move(paths: Paths, run_id: str, by: int = 0, *, place: int | None = None) -> bool:
    """Move a run in the queue; return whether it is there.

    Args:
        by: how many places down, or up (below zero); nothing beyond the ends.
        place: where to, instead: 1 is the next to start.
    """
    with Store(paths.store) as store, store.writing():
        runs = queued(store, paths)
        at = next((n for n, run in enumerate(runs) if run.id == run_id), None)
        if at is None:
            return False
        to = at + by if place is None else min(place, len(runs)) - 1
        if 0 <= to < len(runs):
            runs.insert(to, runs.pop(at))
            for number, run in enumerate(runs, 1):
                _put(store, paths, run, number)
        return True


def leave(store: Store, run_id: str) -> bool:
    """Take a run out of the queue, as a stopped run; return whether it was there."""
    with store.writing():
        run = store.run(run_id)
        if run is None or "queued" not in run.info:
            return False
        store.update_run(run_id, info=info_without(run, "queued"))
        return True


def _put(store: Store, paths: Paths, run: Run, place: float) -> None:
    info = {**run.info, "queued": (place, str(paths.home))}
    store.update_run(run.id, info=info)


# ---------------------------------------------------------------- working


def keep(paths: Paths) -> None:
    """Start the process that works the queue off, unless it is there or nothing waits."""
    with Store(paths.store) as store:
        if not any(is_here(run) for run in queued(store, paths)):
            return
    command = [sys.executable, "-m", "kdharness.harness.runs.queue", str(paths.home)]
    start_detached(command)


def busy(store: Store) -> bool:
    """Return whether a run of this home is live on this machine: a paused one has its memory."""
    return any(effective_status(run).is_live for run in store.live_runs() if is_here(run))


def work(paths: Paths, *, poll: float = POLL_SECONDS, settle: float = SETTLE_SECONDS) -> None:
    """Resume queued runs one after the other until none is left; another process may do it."""
    try:
        with filelock.FileLock(paths.home / ".queue.lock").acquire(timeout=0):
            _work(paths, poll, settle)
    except filelock.Timeout:
        return


def _work(paths: Paths, poll: float, settle: float) -> None:
    quiet = time.monotonic()
    with Store(paths.store) as store:
        # Of a home that was moved away, the app starts another process in its new place.
        while paths.store.exists():
            try:
                if not (waiting := [run for run in queued(store, paths) if is_here(run)]):
                    return
                if busy(store):
                    quiet = time.monotonic()
                elif time.monotonic() - quiet >= settle:
                    _start(paths, store, waiting[0].id)
                    quiet = time.monotonic()
            except sqlite3.OperationalError:
                # Locked, or its disk is full: what waits keeps its place until that is over.
                quiet = time.monotonic()
            time.sleep(poll)


def _start(paths: Paths, store: Store, run_id: str) -> None:
    """Resume a run; one that cannot be started has failed, and the next one is tried.

    Raises:
        sqlite3.OperationalError: the store is not writable now.
    """
    try:
        launch.resume(paths, run_id)
    except launch.DidNotStart:
        return  # recorded, and out of the queue
    except sqlite3.OperationalError:
        raise
    except (KDHarnessError, OSError, sqlite3.Error) as error:
        leave(store, run_id)
        run = store.run(run_id)
        if run is not None and effective_status(run) in WAITING:
            launch.record_failure(paths, store, run_id, str(error))


if __name__ == "__main__":
    work(find_paths(sys.argv[1]))
