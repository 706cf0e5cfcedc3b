"""Watch a run from a terminal until it ends."""

from __future__ import annotations

import time

from kdharness.harness.cli.progress import ProgressView
from kdharness.harness.errors import Interrupted, RunError
from kdharness.harness.paths import Paths
from kdharness.harness.runs.launch import log_tail
from kdharness.harness.runs.status import effective_status, find_run
from kdharness.harness.store import Store
from kdharness.harness.types import Request, Run, RunStatus


def follow(paths: Paths, run_id: str) -> Run:
    """Show a run's progress on stderr until it ends.

    Ctrl-C (or SIGTERM, see `cli.main.sigterm_as_ctrl_c`) asks the run to stop with a checkpoint and
    waits for it; a second one leaves it.

    Raises:
        Interrupted: the user stopped it.
        RunError: it failed; the message is the run's own.
    """
    asked = False
    with Store(paths.store) as store, ProgressView(run_id) as view:
        scores = find_run(store, run_id).method == "eval"
        while True:
            try:
                run = find_run(store, run_id)
                view.show(run, store)
                if not effective_status(run).is_live:
                    break
                time.sleep(0.2)
            except KeyboardInterrupt:
                if asked:
                    raise
                asked = True
                what = "what is under way is finished" if scores else "a checkpoint is saved"
                view.say(f"stopping {run_id}: {what} (again to leave it running)")
                store.request(run_id, Request.STOP)
    status = effective_status(run)
    if status is RunStatus.STOPPED:
        raise Interrupted(f"{run_id} was stopped", hint=f"go on with: kdharness resume {run_id}")
    if status is not RunStatus.FINISHED:
        reason = run.error or f"its process is gone\n{log_tail(paths, run_id, 10)}"
        raise RunError(f"{run_id} {status.value}: {reason}", hint=f"see: kdharness logs {run_id}")
    return run
