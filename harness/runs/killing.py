"""Kill a run's worker together with the processes that it started."""

from __future__ import annotations

import os
import signal
import time
from pathlib import Path

from kdharness.harness.errors import RunError
from kdharness.harness.runs.status import effective_status, find_run, is_alive, is_here
from kdharness.harness.store import Store
from kdharness.harness.types import Run


def kill_worker(store: Store, run_id: str, timeout: float = 10.0) -> Run:
    """Kill a run's worker at once, with the processes it started: no checkpoint is saved.

    Returns:
        The run, which is then interrupted and can be resumed from its last checkpoint.

    Raises:
        RunError: it is on another machine, or belongs to someone else.
    """
    run = find_run(store, run_id)
    if not effective_status(run).is_live or run.pid is None:
        return run
    if not is_here(run):
        raise RunError(f"{run_id} is running on {run.host}", hint="kill it there")
    try:
        if hasattr(os, "killpg") and _is_our_group(group := os.getpgid(run.pid), run.pid):
            os.killpg(group, signal.SIGKILL)
        else:
            os.kill(run.pid, getattr(signal, "SIGKILL", signal.SIGTERM))
    except ProcessLookupError:
        return run
    except PermissionError as error:
        raise RunError(f"{run_id} belongs to another user", hint="ask them to stop it") from error
    deadline = time.time() + timeout
    while is_alive(run) and time.time() < deadline:
        time.sleep(0.02)
    return find_run(store, run_id)


def _is_our_group(group: int, pid: int) -> bool:
    """Return whether a process group has only a worker's processes: a scheduler's has others."""
    if group in (pid, os.getpgrp()):
        return group == pid
    try:
        return b"kdharness.harness.worker" in Path(f"/proc/{group}/cmdline").read_bytes()
    except OSError:
        return False
