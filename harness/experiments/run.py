"""Run an experiment: start, join or resume each run, and watch it until it ends."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from kdharness.harness import assets
from kdharness.harness.config.training import config_hash
from kdharness.harness.errors import ConfigError, Interrupted, KDHarnessError, RunError
from kdharness.harness.experiments.expand import PlannedRun, SweepConfig
from kdharness.harness.paths import Paths
from kdharness.harness.runs import launch
from kdharness.harness.runs.status import effective_status
from kdharness.harness.runs.watch import poll
from kdharness.harness.store import Store
from kdharness.harness.types import Run, RunStatus

Say = Callable[[str], None]
Tick = Callable[[str], None]
DONE = ("finished", "done before")
STARTED = ("starting", "running", "paused", "finished")


@dataclass(frozen=True)
class Result:
    """How one run of an experiment ended: finished, done before, failed or skipped."""

    name: str
    step: str
    status: str
    seconds: float
    note: str = ""

    def as_dict(self) -> dict[str, Any]:
        """Return a row of `sweep --format json`."""
        return {
            "run": self.name,
            "step": self.step,
            "status": self.status,
            "seconds": round(self.seconds, 1),
            "note": self.note,
        }


def prepare(paths: Paths, sweep: SweepConfig, say: Say) -> None:
    """Download the experiment's `assets` that are missing.

    Raises:
        AssetError: no source provides one.
    """
    for name in sweep.assets:
        assets.pull(paths, name, say=say)


def run_sweep(
    paths: Paths,
    planned: Sequence[PlannedRun],
    say: Say,
    tick: Tick,
    *,
    begin: Callable[[PlannedRun], None] | None = None,
    end: Callable[[Result], None] | None = None,
) -> list[Result]:
    """Execute every run; if one fails, only the runs that depend on it are skipped.

    Several processes may execute the same experiment at once: each run is started by one of them
    and watched by all.

    Args:
        paths: the home.
        planned: the runs, dependencies first.
        say: called with one line per run, when it has ended.
        tick: called with the state of the current run, a few times per second. If it raises
            `Interrupted`, that run stops with a checkpoint, and then the experiment.
        begin: called with each run before it starts; may also raise `Interrupted`.
        end: called with the result of each run.

    Raises:
        Interrupted: the user stopped it; the same call continues from there.
    """
    results: dict[str, Result] = {}
    for number, planned_run in enumerate(planned, 1):
        name, step = planned_run.name, planned_run.step
        started = time.time()
        missing = [need for need in planned_run.needs if results[need].status not in DONE]
        if missing:
            note = f"needs {missing[0]}, which {_was(results[missing[0]].status)}"
            result = Result(name, step, "skipped", 0.0, note)
        else:
            if begin is not None:
                begin(planned_run)
            try:
                status, note = _run_one(paths, planned_run, tick)
            except Interrupted:
                raise
            except KDHarnessError as error:
                status, note = "failed", str(error).splitlines()[0]
            result = Result(name, step, status, time.time() - started, note)
        results[name] = result
        if end is not None:
            end(result)
        took = f" in {result.seconds:.0f} s" if result.status in ("finished", "failed") else ""
        details = f": {result.note}" if result.note else ""
        say(f"[{number}/{len(planned)}] {name} {result.status}{took}{details}")
    return list(results.values())


def _was(status: str) -> str:
    return "was skipped" if status == "skipped" else status


def state_of(store: Store, one: PlannedRun) -> str:
    """Return the state of a planned run: `new`, or the stored run's status.

    Raises:
        RunError: a run of that name exists with different settings.
    """
    run = store.run(one.name)
    if run is None:
        return "new"
    if run.config_hash != config_hash(one.config):
        raise RunError(
            f"a run named {one.name!r} already exists with different settings",
            hint="rename the experiment, or use another --home",
        )
    return effective_status(run).value


def _run_one(paths: Paths, planned: PlannedRun, tick: Tick) -> tuple[str, str]:
    """Start, join or resume a run and wait for it; return (status, note)."""
    with Store(paths.store) as store:
        state = state_of(store, planned)
        if state == RunStatus.FINISHED.value:
            return "done before", ""
        _start_or_join(paths, store, planned, state)
        run, stopping = _watch(store, planned.name, tick)
    status = effective_status(run)
    if status is RunStatus.STOPPED or stopping:
        raise Interrupted(
            f"{planned.name} was stopped"
            if status is RunStatus.STOPPED
            else f"stopped after {planned.name} had {status.value}",
            hint="run the same command again to continue",
        )
    if status is not RunStatus.FINISHED:
        reason = run.error.splitlines()[0] if run.error else "its process is gone"
        return "failed", f"{reason} (kdharness logs {planned.name})"
    return "finished", f"loss {run.loss:.4f}" if run.loss is not None else ""


def _start_or_join(paths: Paths, store: Store, planned: PlannedRun, state: str) -> None:
    """Start or resume a run without a live worker; a live one is only joined."""
    try:
        if state == "new":
            launch.start(paths, planned.config, name=planned.name, in_experiment=True)
        elif state not in (RunStatus.RUNNING.value, RunStatus.STARTING.value):
            launch.resume(paths, planned.name, in_experiment=True)
    except (ConfigError, RunError):
        # Another process may have started it at the same moment: then it is only watched.
        if state_of(store, planned) not in STARTED:
            raise


def _watch(store: Store, name: str, tick: Tick) -> tuple[Run, bool]:
    """Wait for a run to end; return it, and whether it was asked to stop from here."""

    def show(run: Run, stopping: bool) -> None:
        if not effective_status(run).is_live:
            return
        loss = f", loss {run.loss:.4f}" if run.loss is not None else ""
        stage = "stopping" if stopping else run.info.get("stage", run.status.value)
        tick(f"{name} {stage} {run.step}/{run.max_steps}{loss}")

    return poll(store, name, show)
