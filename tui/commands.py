"""Running our own code in a separate process."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

from kdharness.harness.errors import RunError
from kdharness.harness.util.process import child_environment
from kdharness.harness.util.text import safe_text


def cli_words(home: Path, *words: str) -> list[str]:
    """Return Python's arguments for a kdharness command."""
    return ["-m", "kdharness.harness.cli", "--home", str(home), *words]


def run_python(words: list[str], text: str = "") -> subprocess.CompletedProcess[str]:
    """Run our own Python with these arguments, and this text on stdin."""
    return subprocess.run(
        [sys.executable, *words],
        input=text,
        capture_output=True,
        text=True,
        env=child_environment(TRANSFORMERS_VERBOSITY="error"),
    )


def run_command(home: Path, *words: str) -> subprocess.CompletedProcess[str]:
    """Run a kdharness command in a separate process."""
    return run_python(cli_words(home, *words))


def printed_json(done: subprocess.CompletedProcess[str]) -> Any:
    """Return the JSON that a process printed.

    Raises:
        RunError: it printed something else; the message is the end of its stderr.
    """
    try:
        return json.loads(done.stdout)
    except ValueError as error:
        lines = [line for line in done.stderr.splitlines() if line.strip() and "%|" not in line]
        raise RunError(safe_text("\n".join(lines[-3:]), 500) or "no error message") from error
