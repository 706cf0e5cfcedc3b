"""The command line: one file per group of commands, imported on demand."""

from kdharness.harness.cli.main import COMMANDS, cli, main, run

__all__ = ["COMMANDS", "cli", "main", "run"]
