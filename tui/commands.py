"""Running a kdharness command in a separate process."""

from __future__ import annotations

import subprocess
import sys


def run_command(home: object, *words: str) -> subprocess.CompletedProcess[str]:
    """Run a kdharness command in a separate process."""
    command = [sys.executable, "-m", "kdharness.harness.cli", "--home", str(home), *words]
    return subprocess.run(command, capture_output=True, text=True, stdin=subprocess.DEVNULL)
