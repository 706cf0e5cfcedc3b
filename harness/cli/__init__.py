"""The command line: one file per group of commands, loaded when it is called."""

from kdharness.harness.cli.main import main, run

__all__ = ["main", "run"]
