"""Follow a run from a terminal until it ends."""

from __future__ import annotations

from kdharness.harness.cli.progress import progress_view
from kdharness.harness.paths import Paths
from kdharness.harness.runs.watch import watch
from kdharness.harness.types import Run


def follow(paths: Paths, run_id: str) -> Run:
    """Show a run's progress on stderr until it ends; see `runs.watch`.

    SIGTERM acts like Ctrl-C (`cli.main.sigterm_as_ctrl_c`).

    Raises:
        Interrupted: the user stopped it.
        RunError: it failed; the message is the run's error.
    """
    with progress_view(run_id) as view:
        return watch(paths, run_id, view.show, view.say)
