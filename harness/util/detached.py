"""Processes that outlive this one."""

from __future__ import annotations

import subprocess
from collections.abc import Sequence
from typing import IO

from kdharness.harness.util.process import child_environment


def start_detached(
    command: Sequence[str], output: IO[bytes], **variables: str
) -> subprocess.Popen[bytes]:
    """Start a process that outlives this one; stdout and stderr go unbuffered to `output`.

    Args:
        variables: further ones of its environment.
    """
    return subprocess.Popen(
        command,
        stdin=subprocess.DEVNULL,
        stdout=output,
        stderr=subprocess.STDOUT,
        start_new_session=True,
        env=child_environment(PYTHONUNBUFFERED="1", **variables),
    )
