"""Let a worker that is just starting be replaced by a fork of a process that has imported torch.

This process stays as its stand-in: it passes signals on, and ends as the forked worker ends.
"""

from __future__ import annotations

import json
import os
import signal
import socket
import sys
from types import FrameType

FORKED = ("accelerate.commands.launch", "kdharness.harness.worker", "torch.distributed.run")
"""Modules; and every script that torch's launcher starts is forked."""
PATIENCE = 60.0
"""Seconds for the server's own imports."""
PASSED_ON = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)


def fork_instead(server: str) -> None:
    """Ask the server for a fork that does this process's work; return if it refuses.

    Args:
        server: the path of the server's socket.
    """
    arguments = sys.orig_argv[1:]
    if arguments[:1] == ["-u"]:
        del arguments[0]
    if arguments[:1] == ["-m"] and arguments[1] in FORKED:
        del arguments[0]
    elif not (arguments and arguments[0].endswith(".py") and "TORCHELASTIC_RUN_ID" in os.environ):
        return
    with socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET) as connection:
        try:
            connection.connect(server)
        except OSError:
            return  # the tests that started the server have ended
        request = {
            "program": arguments[0],
            "arguments": arguments[1:],
            "folder": os.getcwd(),
            "environment": dict(os.environ),
        }
        socket.send_fds(connection, [json.dumps(request).encode()], [0, 1, 2])
        connection.settimeout(PATIENCE)
        try:
            worker = int(connection.recv(64) or 0)
        except OSError:
            return  # the server has ended
        connection.settimeout(None)
        if worker:
            _stand_in(connection, worker)


def _stand_in(connection: socket.socket, worker: int) -> None:
    """Pass signals on to the worker, and end as it does."""

    def pass_on(number: int, _: FrameType | None) -> None:
        try:
            os.kill(worker, number)
        except ProcessLookupError:
            pass

    for number in PASSED_ON:
        signal.signal(number, pass_on)
    code = int(connection.recv(64) or -signal.SIGKILL)
    if code >= 0:
        os._exit(code)
    signal.signal(-code, signal.SIG_DFL) if -code not in (signal.SIGKILL, signal.SIGSTOP) else None
    os.kill(os.getpid(), -code)
