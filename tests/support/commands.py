"""The command line, in this process or in a subprocess."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from kdharness.harness import cli
from support.listings import check_listing, listing_of

Result = tuple[int, str, str]
"""(exit code, stdout, stderr)."""


class CommandLine:
    """Run `kdharness --home HOME …` in this process; workers run in their own processes."""

    def __init__(self, home: Path, capsys: pytest.CaptureFixture[str]) -> None:
        self.home, self.capsys = home, capsys

    def __call__(self, *args: str) -> Result:
        self.capsys.readouterr()
        self.home.mkdir(parents=True, exist_ok=True)  # commands that read refuse a missing home
        code = cli.run(["--home", str(self.home), *args])
        captured = self.capsys.readouterr()
        return code, captured.out, captured.err

    def ok(self, *args: str) -> str:
        """Run a command that must succeed; return its stdout."""
        code, out, err = self(*args)
        assert code == 0, err
        return out

    def json(self, *args: str) -> Any:
        """Run a command with `--format json`; return the parsed output, checked by its schema."""
        found = json.loads(self.ok(*args, "--format", "json"))
        if name := listing_of(args):
            check_listing(name, found)
        return found


def start_command(*args: str, **options: Any) -> subprocess.Popen[str]:
    """Start `kdharness ARGS` in a process that handles SIGINT.

    Children of background jobs, of nohup and of some CI runners inherit an ignored SIGINT, and
    Python then installs no handler for it.
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
