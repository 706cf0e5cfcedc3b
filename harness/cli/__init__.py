"""The command line: one file per group of commands, imported on demand."""

import gc

collects = gc.isenabled()
gc.disable()  # nothing of what is imported here is garbage

from kdharness.harness.cli.main import COMMANDS, cli, main, run  # noqa: E402

if collects:
    gc.enable()

__all__ = ["COMMANDS", "cli", "main", "run"]
