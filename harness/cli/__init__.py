"""The command line: one file per group of commands, imported on demand."""

import gc

collects = gc.isenabled()
gc.disable()  # nothing imported below is garbage: the import must come after this line

from kdharness.harness.cli.main import COMMANDS, cli, main, run  # noqa: E402

if collects:
    gc.enable()

__all__ = ["COMMANDS", "cli", "main", "run"]
