"""Carrying out an experiment: each run started, joined or resumed, and watched to its end."""

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
from kdharness.harness.runs.status import effective_status, find_run
from kdharness.harness.store import Store
from kdharness.harness.types import Request, Run, RunStatus

Say = Callable[[str], None]
Tick = Callable[[str], None]
DONE = ("finished", "done before")
TAKEN_UP = ("starting", "running", "paused", "finished")


@dataclass(frozen=True)
class Result:
    """How one run of an experiment ended: finished, done before, failed or skipped."""

    name: str
    step: str
    status: str
    seconds: float
    note: str = ""

    def as_dict(self) -> dict[str, Any]:
        """A row of `sweep --format json`."""
        return {
            "run": self.name,
            "step": self.step,
            "status": self.status,
            "seconds": round(self.seconds, 1),
            "note": self.note,
        }


def prepare(paths: Paths, sweep: SweepConfig, say: Say) -> None:
    """Fetch what the experiment names under `assets` and is not there yet.

    Raises:
        AssetError: no source has it.
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
    """Carry out every run; one that fails stops only those that need it.

    Several processes may carry out the same experiment at once: a run is started by one of them
    and watched by all.

    Args:
        paths: the home.
        planned: the runs, dependencies first.
        say: takes one line a run, when it has ended.
        tick: takes the state of the run at work, a few times a second. Raising `Interrupted`
            in it stops that run with a checkpoint, and the experiment once it has ended.
        begin: takes each run before it is looked at; may raise `Interrupted`, too.
        end: takes what became of each run.

    Raises:
        Interrupted: the user stopped it; the same call goes on from there.
    """
    results: dict[str, Result] = {}
    for number, one in enumerate(planned, 1):
        began = time.time()
        lost = [need for need in one.needs if results[need].status not in DONE]
        if lost:
            result = Result(
                one.name,
                one.step,
                "skipped",
                0.0,
                f"needs {lost[0]}, which {results[lost[0]].status}",
            )
        else:
            if begin is not None:
                begin(one)
            try:
                status, note = _run_one(paths, one, tick)
            except Interrupted:
                raise
            except KDHarnessError as error:
                status, note = "failed", str(error).splitlines()[0]
            result = Result(one.name, one.step, status, time.time() - began, note)
        results[one.name] = result
        if end is not None:
            end(result)
        took = f" in {result.seconds:.0f} s" if result.status in ("finished", "failed") else ""
        rest = f": {result.note}" if result.note else ""
        say(f"[{number}/{len(planned)}] {one.name} {result.status}{took}{rest}")
    return list(results.values())


def state_of(paths: Paths, one: PlannedRun) -> str:
    """What a run of the plan is before anything is done: `new`, or the stored run's status.

    Raises:
        RunError: a run of that name was made with other settings.
    """
    with Store(paths.store) as store:
        run = store.run(one.name)
    if run is None:
        return "new"
    if run.config_hash != config_hash(one.config):
        raise RunError(
            f"a run named {one.name!r} was made with other settings",
            hint="give the experiment another name, or use another --home",
        )
    return effective_status(run).value


def _run_one(paths: Paths, one: PlannedRun, tick: Tick) -> tuple[str, str]:
    """Start, join or resume a run and wait for it; returns (status, note)."""
    state = state_of(paths, one)
    if state == RunStatus.FINISHED.value:
        return "done before", ""
    _take_up(paths, one, state)
    run, asked = _watch(paths, one.name, tick)
    status = effective_status(run)
    if status is RunStatus.STOPPED or asked:
        raise Interrupted(
            f"{one.name} was stopped"
            if status is RunStatus.STOPPED
            else f"stopped when {one.name} had {status.value}",
            hint="the same sweep goes on from there",
        )
    if status is not RunStatus.FINISHED:
        reason = run.error.splitlines()[0] if run.error else "its process is gone"
        return "failed", f"{reason} (kdharness logs {one.name})"
    return "finished", f"loss {run.loss:.4f}" if run.loss is not None else ""


def _take_up(paths: Paths, one: PlannedRun, state: str) -> None:
    """Start or resume a run that has no process at work; a live one is only joined."""
    try:
        if state == "new":
            launch.start(paths, one.config, name=one.name)
        elif state not in (RunStatus.RUNNING.value, RunStatus.STARTING.value):
            launch.resume(paths, one.name)
    except (ConfigError, RunError):
        # Another process may have taken it up at the same moment: then it is watched.
        if state_of(paths, one) not in TAKEN_UP:
            raise


def _watch(paths: Paths, name: str, tick: Tick) -> tuple[Run, bool]:
    """Wait for a run's end; returns it, and whether it was asked to stop from here.

    Ctrl-C, or `Interrupted` from `tick`, asks it to stop with a checkpoint; a second Ctrl-C
    leaves it.
    """
    asked = False
    with Store(paths.store) as store:
        while True:
            try:
                run = find_run(store, name)
                if not effective_status(run).is_live:
                    return run, asked
                loss = f", loss {run.loss:.4f}" if run.loss is not None else ""
                stage = "stopping" if asked else run.info.get("stage", run.status.value)
                text = f"{name} {stage} {run.step}/{run.max_steps}{loss}"
                try:
                    tick(text)
                except Interrupted:
                    if not asked:
                        asked = True
                        store.request(name, Request.STOP)
                time.sleep(0.2)
            except KeyboardInterrupt:
                if asked:
                    raise
                asked = True
                store.request(name, Request.STOP)
