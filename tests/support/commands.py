"""The command line in a process of its own."""

from __future__ import annotations

import signal
import subprocess
import sys
from typing import Any


def start_command(*args: str, **options: Any) -> subprocess.Popen[str]:
    """`kdharness ARGS` in a process that hears Ctrl-C.

    A child of a shell's background job, of nohup and of some CI runners inherits that SIGINT is
    ignored, and Python then installs no handler for it.
    """

    def hear() -> None:
        signal.signal(signal.SIGINT, signal.SIG_DFL)
        signal.signal(signal.SIGTERM, signal.SIG_DFL)

    settings: dict[str, Any] = {
        "stdout": subprocess.PIPE,
        "stderr": subprocess.PIPE,
        "text": True,
        "preexec_fn": hear,
    }
    command = [sys.executable, "-m", "kdharness.harness.cli", *args]
    return subprocess.Popen(command, **{**settings, **options})
