"""Processes that outlive this one."""

from __future__ import annotations

import subprocess
from collections.abc import Mapping, Sequence
from typing import IO

from kdharness.harness.util.process import child_environment


def start_detached(
    command: Sequence[str],
    output: IO[bytes] | None = None,
    variables: Mapping[str, str] | None = None,
) -> subprocess.Popen[bytes]:
    """Start a process that outlives this one.

    Args:
        command: the program and its arguments.
        output: where its stdout and stderr go, unbuffered; None discards them.
        variables: further ones of its environment.
    """
    return subprocess.Popen(
        command,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL if output is None else output,
        stderr=subprocess.STDOUT,
        start_new_session=True,
        env=child_environment(PYTHONUNBUFFERED="1", **(variables or {})),
    )
