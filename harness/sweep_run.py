"""Carrying out an experiment: each run started, joined or resumed, and watched to its end."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from kdharness.harness import launch
from kdharness.harness.config import config_hash
from kdharness.harness.errors import Interrupted, KDHarnessError, RunError
from kdharness.harness.paths import Paths
from kdharness.harness.store import Store
from kdharness.harness.sweep import Planned
from kdharness.harness.types import Request, Run, RunStatus

Say = Callable[[str], None]
Tick = Callable[[str], None]
DONE = ("finished", "done before")


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
        return {"run": self.name, "step": self.step, "status": self.status,
                "seconds": round(self.seconds, 1), "note": self.note}  # fmt: skip


def run_sweep(paths: Paths, planned: Sequence[Planned], say: Say, tick: Tick) -> list[Result]:
    """Carry out every run; one that fails stops only those that need it.

    Args:
        planned: the runs, dependencies first.
        say: takes one line a run, when it has ended.
        tick: takes the state of the run at work, a few times a second.

    Raises:
        Interrupted: the user stopped it; the same call goes on from there.
    """
    results: dict[str, Result] = {}
    for number, one in enumerate(planned, 1):
        began = time.time()
        lost = [need for need in one.needs if results[need].status not in DONE]
        if lost:
            result = Result(one.name, one.step, "skipped", 0.0,
                            f"needs {lost[0]}, which {results[lost[0]].status}")  # fmt: skip
        else:
            try:
                status, note = _run_one(paths, one, tick)
            except Interrupted:
                raise
            except KDHarnessError as error:
                status, note = "failed", str(error).splitlines()[0]
            result = Result(one.name, one.step, status, time.time() - began, note)
        results[one.name] = result
        took = f" in {result.seconds:.0f} s" if result.status in ("finished", "failed") else ""
        rest = f": {result.note}" if result.note else ""
        say(f"[{number}/{len(planned)}] {one.name} {result.status}{took}{rest}")
    return list(results.values())


def state_of(paths: Paths, one: Planned) -> str:
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
    return launch.effective_status(run).value


def _run_one(paths: Paths, one: Planned, tick: Tick) -> tuple[str, str]:
    """Start, join or resume a run and wait for it; returns (status, note)."""
    state = state_of(paths, one)
    if state == RunStatus.FINISHED.value:
        return "done before", ""
    if state == "new":
        launch.start(paths, one.config, name=one.name)
    elif state not in (RunStatus.RUNNING.value, RunStatus.STARTING.value):
        launch.resume(paths, one.name)
    run = _watch(paths, one.name, tick)
    status = launch.effective_status(run)
    if status is RunStatus.STOPPED:
        raise Interrupted(f"{one.name} was stopped", hint="the same sweep goes on from there")
    if status is not RunStatus.FINISHED:
        reason = run.error.splitlines()[0] if run.error else "its process is gone"
        return "failed", f"{reason} (kdharness logs {one.name})"
    return "finished", f"loss {run.loss:.4f}" if run.loss is not None else ""


def _watch(paths: Paths, name: str, tick: Tick) -> Run:
    """Wait for a run's end. Ctrl-C asks it to stop with a checkpoint; a second one leaves it."""
    asked = False
    with Store(paths.store) as store:
        while True:
            try:
                run = launch.find_run(store, name)
                if not launch.effective_status(run).is_live:
                    return run
                loss = f", loss {run.loss:.4f}" if run.loss is not None else ""
                stage = run.info.get("stage", run.status.value)
                tick(f"{name} {stage} {run.step}/{run.max_steps}{loss}")
                time.sleep(0.2)
            except KeyboardInterrupt:
                if asked:
                    raise
                asked = True
                store.request(name, Request.STOP)
