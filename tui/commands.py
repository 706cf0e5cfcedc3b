"""A command of kdharness in a process of its own, line by line."""

from __future__ import annotations

import subprocess
import sys
from typing import Any


def run_command(home: Any, *words: str) -> subprocess.CompletedProcess[str]:
    """One of our own commands, in a process of its own."""
    command = [sys.executable, "-m", "kdharness.harness.cli", "--home", str(home), *words]
    return subprocess.run(command, capture_output=True, text=True, stdin=subprocess.DEVNULL)
