"""Whether a run is alive, and what its status really is.

A run that should be live but whose process is gone (pid and its start time, or the heartbeat for
another host) is *interrupted*.
"""

from __future__ import annotations

import os
import socket
import time
from pathlib import Path
from typing import TYPE_CHECKING

from kdharness.harness.errors import RunError
from kdharness.harness.paths import Paths
from kdharness.harness.store import Store
from kdharness.harness.types import Run, RunStatus

if TYPE_CHECKING:
    import filelock


HEARTBEAT_SECONDS = 2.0


STALE_SECONDS = 60.0


def process_started(pid: int) -> float | None:
    """When the process began, or None when it is gone.

    On Linux in seconds since the machine started: the clock of the wall may be set back while a
    run goes on, and by it a living worker would look like another process that took its number.
    Elsewhere in seconds since the epoch.
    """
    stat = Path(f"/proc/{pid}/stat")
    if stat.parent.parent.joinpath("self").exists():
        try:
            # The name in parentheses may hold blanks and parentheses itself.
            fields = stat.read_text("utf-8", "replace").rpartition(")")[2].split()
        except OSError:
            return None
        return None if fields[0] == "Z" else int(fields[19]) / os.sysconf("SC_CLK_TCK")
    import psutil

    try:
        process = psutil.Process(pid)
        if process.status() == psutil.STATUS_ZOMBIE:
            return None
        return float(process.create_time())
    except psutil.Error:
        return None


def run_lock(paths: Paths, run_id: str) -> filelock.BaseFileLock:
    """The lock a worker holds while it works; the system frees it when the process dies.

    Status and process number in the store say who *should* be at work; of two workers that were
    started for one run by whatever means, this lets one through.
    """
    import filelock

    folder = paths.run(run_id)
    folder.mkdir(parents=True, exist_ok=True)
    return filelock.FileLock(folder / ".lock")


def is_alive(run: Run) -> bool:
    """Whether the run's worker still works."""
    if run.pid is None:
        last = max(run.created, run.heartbeat or 0)
        return run.status is RunStatus.STARTING and abs(time.time() - last) < STALE_SECONDS
    if run.host and run.host != socket.gethostname():
        # A beat from the future says that a clock went back, not that somebody is alive.
        return abs(time.time() - (run.heartbeat or 0)) < STALE_SECONDS
    began = process_started(run.pid)
    return began is not None and abs(began - (run.pid_started or began)) < 0.5


def effective_status(run: Run) -> RunStatus:
    """The stored status, or INTERRUPTED when the process behind it is gone."""
    if run.status.is_live and not is_alive(run):
        return RunStatus.INTERRUPTED
    return run.status


def find_run(store: Store, run_id: str) -> Run:
    """The run of that name. Raises RunError with the newest names."""
    run = store.run(run_id)
    if run is None:
        names = ", ".join(found.id for found in store.runs()[:8]) or "none yet"
        raise RunError(f"no run named {run_id!r}", hint=f"newest runs: {names}")
    return run
