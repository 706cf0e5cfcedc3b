"""Runs a server for as long as its owner lives: a program of its own, of the standard library.

    python keeper.py LIFELINE GRACE COMMAND…

LIFELINE is the number of a pipe's reading end whose writing end the owner alone holds. When the
owner closes it, or ends in whatever way (an exception, Ctrl-C, SIGTERM, SIGKILL), the kernel closes
that end, and the server is stopped with all of its processes: first with SIGTERM, and after GRACE
seconds with SIGKILL. When the server ends by itself, what it left behind is killed: a server's
workers may survive it and hold a GPU's memory.
"""

from __future__ import annotations

import contextlib
import ctypes
import os
import select
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path

LOOK = 0.1
_DEATH_SIGNAL, _ADOPT = 1, 36
"""Linux: prctl's PR_SET_PDEATHSIG and PR_SET_CHILD_SUBREAPER."""


def keep(lifeline: int, grace: float, command: Sequence[str]) -> int:
    """Run a command until it or its owner ends; return the exit code."""
    _prctl(_ADOPT, 1)
    asked: list[int] = []
    for name in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
        signal.signal(name, lambda number, _: asked.append(number))
    try:
        # Of one thread, so that the parent's death is this program's and `preexec_fn` is safe.
        server = subprocess.Popen(
            command,
            stdin=subprocess.DEVNULL,
            start_new_session=True,
            preexec_fn=lambda: _prctl(_DEATH_SIGNAL, signal.SIGTERM),
        )
    except OSError as error:
        print(f"{command[0]}: {error.strerror}", flush=True)
        return 127
    while server.poll() is None and not asked and not _closed(lifeline):
        pass
    if server.poll() is None:
        _signal_group(server.pid, signal.SIGTERM)
        with contextlib.suppress(subprocess.TimeoutExpired):
            server.wait(grace)
    _kill_all(server)
    code = server.wait()
    return code if code >= 0 else 128 - code


def _closed(lifeline: int) -> bool:
    """Wait a moment; return whether the owner is gone."""
    ready, _, _ = select.select([lifeline], [], [], LOOK)
    return bool(ready) and not os.read(lifeline, 1)


def _kill_all(server: subprocess.Popen[bytes]) -> None:
    """Kill the server's group, and everything that it started and that left the group."""
    for _ in range(20):
        _signal_group(server.pid, signal.SIGKILL)
        left = descendants(os.getpid())
        for pid in left:
            with contextlib.suppress(ProcessLookupError, PermissionError):
                os.kill(pid, signal.SIGKILL)
        # What was adopted must be waited for, or it stays in the table of processes.
        with contextlib.suppress(ChildProcessError):
            while os.waitpid(-1, os.WNOHANG)[0]:
                pass
        if not left:
            return
        time.sleep(LOOK)


def _signal_group(group: int, number: int) -> None:
    with contextlib.suppress(ProcessLookupError, PermissionError):
        os.killpg(group, number)


def descendants(pid: int) -> list[int]:
    """Return the processes below a process; none where there is no /proc."""
    parents: dict[int, int] = {}
    for entry in Path("/proc").glob("[0-9]*/stat"):
        with contextlib.suppress(OSError, ValueError, IndexError):
            text = entry.read_text("ascii", "replace")
            # The name in brackets may contain anything; state and parent follow it.
            state, parent = text.rpartition(")")[2].split()[:2]
            if state != "Z":
                parents[int(entry.parent.name)] = int(parent)
    found, fresh = [], [pid]
    while fresh:
        fresh = [child for child, parent in parents.items() if parent in fresh]
        found += fresh
    return found


def _prctl(option: int, value: int) -> None:
    """Call Linux's prctl; other systems do without."""
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(option, value, 0, 0, 0)


if __name__ == "__main__":
    sys.exit(keep(int(sys.argv[1]), float(sys.argv[2]), sys.argv[3:]))
