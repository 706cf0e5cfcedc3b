"""Whether a run is alive, and its effective status.

A run that should be live but whose process is gone (pid and its start time, or the heartbeat on
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
from kdharness.harness.types import Run, RunStatus
from kdharness.harness.util.text import safe_text

if TYPE_CHECKING:
    import filelock

    from kdharness.harness.store import Store


HEARTBEAT_SECONDS = 2.0
MESSAGE_CHARACTERS = 300


STALE_SECONDS = 60.0
AT_WORK = ", "
"""Separates the names of the runs that an experiment waits for."""


def runs_at_work(run: Run) -> list[str]:
    """Return the names of the runs that an experiment waits for."""
    return [name for name in run.info.get("at_work", "").split(AT_WORK) if name]


def info_without(run: Run, *names: str) -> dict[str, object]:
    """Return a run's info without some of it: its place in the queue, which it leaves."""
    return {name: value for name, value in run.info.items() if name not in names}


def process_started(pid: int) -> float | None:
    """Return when a process started, or None if it is gone.

    On Linux in seconds since boot: the wall clock may be set back during a run, and a live worker
    would then look like another process that reuses its pid. Elsewhere in seconds since the epoch.
    """
    stat = Path(f"/proc/{pid}/stat")
    if stat.parent.parent.joinpath("self").exists():
        try:
            # The process name in parentheses may itself contain spaces and parentheses.
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
    """Return the lock that a worker holds; the system releases it when the process dies.

    Status and pid in the store say which worker *should* be running; if two workers were started
    for the same run, the lock admits only one.
    """
    import filelock

    folder = paths.run(run_id)
    folder.mkdir(parents=True, exist_ok=True)
    return filelock.FileLock(folder / ".lock")


def is_here(run: Run) -> bool:
    """Return whether a run is, or would be, on this machine."""
    return run.host in ("", socket.gethostname())


def is_alive(run: Run) -> bool:
    """Return whether the run's worker is alive."""
    if run.pid is None:
        last = max(run.created, run.heartbeat or 0)
        return run.status is RunStatus.STARTING and abs(time.time() - last) < STALE_SECONDS
    if not is_here(run):
        # A heartbeat in the future means that a clock was set back, not that the worker is alive.
        return abs(time.time() - (run.heartbeat or 0)) < STALE_SECONDS
    started = process_started(run.pid)
    return started is not None and abs(started - (run.pid_started or started)) < 0.5


def effective_status(run: Run) -> RunStatus:
    """Return the stored status, or INTERRUPTED if the worker process is gone."""
    if run.status.is_live and not is_alive(run):
        return RunStatus.INTERRUPTED
    return run.status


def find_run(store: Store, run_id: str) -> Run:
    """Return the run of that name; raise RunError with the newest names if there is none."""
    run = store.run(run_id)
    if run is None:
        names = ", ".join(known.id for known in store.runs()[:8]) or "none yet"
        raise RunError(f"no run named {run_id!r}", hint=f"newest runs: {names}")
    return run


def end_message(run: Run, state: str, error: str = "") -> str:
    """Return one line on how a run ended: `kd failed: out of memory`."""
    reason = error.strip().partition("\n")[0]
    return safe_text(f"{run.id} {state}{f': {reason}' if reason else ''}", MESSAGE_CHARACTERS)


def is_part(run: Run) -> bool:
    """Return whether the run belongs to an experiment, which reports its end unless it fails."""
    return bool(run.info.get("in_experiment"))
