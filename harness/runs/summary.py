"""A run as a row of listings, and its ETA."""

from __future__ import annotations

import time
from typing import Any

from kdharness.harness.config.summary import models_of
from kdharness.harness.runs.status import effective_status
from kdharness.harness.types import Run, RunStatus


def eta(run: Run, now: float) -> float | None:
    """Estimate the seconds left in the run's current stage, from its rate so far."""
    started = run.info.get("stage_began")
    done = run.step - int(run.info.get("stage_first", 0))
    if started is None or done < 1 or run.max_steps <= run.step:
        return None
    last = float(run.info.get("stage_last", now))
    return max(0.0, (last - float(started)) / done * (run.max_steps - run.step) - (now - last))


def run_line(run: Run, now: float, status: RunStatus | None = None) -> dict[str, object]:
    """Return a run as a row of the list of runs; `status` overrides the stored one."""
    state = status or run.status
    when = run.started or run.created
    waits = bool(run.info.get("queued")) and not state.is_live
    return {
        "id": run.id,
        "method": run.method,
        "models": models_of(run.config),
        "status": state.value,
        "step": run.step,
        "max_steps": run.max_steps,
        "progress": run.step / run.max_steps if run.max_steps else 0.0,
        "eta": eta(run, now) if state is RunStatus.RUNNING else None,
        "loss": run.loss,
        "when": when,
        "stage": "queued" if waits else str(run.info.get("at_work") or run.info.get("stage", "")),
        "checkpoint": run.checkpoint or "",
        "error": run.error,
    }


def run_row(run: Run) -> dict[str, Any]:
    """Return a run as the stable row of `runs --format json`."""
    started = run.started or run.created
    return {
        "run": run.id,
        "method": run.method,
        "status": effective_status(run).value,
        "step": run.step,
        "max_steps": run.max_steps,
        "loss": run.loss,
        "started": time.strftime("%Y-%m-%dT%H:%M:%S", time.localtime(started)),
        "checkpoint": run.checkpoint,
    }
