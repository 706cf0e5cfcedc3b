"""Run an experiment: start, join or resume each run, and watch it until it ends."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import Any

from kdharness.harness import assets
from kdharness.harness.config.evaluation import EvalConfig
from kdharness.harness.config.settings import load_settings
from kdharness.harness.config.training import TrainConfig, config_hash
from kdharness.harness.errors import ConfigError, Interrupted, KDHarnessError, RunError
from kdharness.harness.experiments.expand import PlannedRun, SweepConfig
from kdharness.harness.experiments.outdated import changed_files, replaced_need
from kdharness.harness.paths import Paths
from kdharness.harness.runs import launch
from kdharness.harness.runs.killing import kill_worker
from kdharness.harness.runs.status import effective_status, find_run
from kdharness.harness.runs.watch import POLL_SECONDS
from kdharness.harness.store import Store
from kdharness.harness.types import Request, Run, RunStatus
from kdharness.harness.util.process import (
    count_gpus,
    machine_share,
    usable_cores,
    visible_gpus,
)
from kdharness.harness.util.text import listed

Say = Callable[[str], None]
Tick = Callable[[str], None]
DONE = ("finished", "done before")
AGAIN = "run the same command again to continue"
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
    jobs: int = 1,
    begin: Callable[[PlannedRun], None] | None = None,
    end: Callable[[Result], None] | None = None,
) -> list[Result]:
    """Execute every run; if one fails, only the runs that depend on it are skipped.

    Several processes may execute the same experiment at once: each run is started by one of them
    and watched by all.

    Args:
        paths: the home.
        planned: the runs, dependencies first. Side by side, of those that are ready the one with
            the longest chain of runs waiting for it starts first.
        say: called with one line per run, when it has ended.
        tick: called with the state of the current runs, a few times per second. If it raises
            `Interrupted`, they stop with a checkpoint, and then the experiment.
        jobs: how many runs at most are executed side by side, each on its share of the cores, or
            on a GPU of its own.
        begin: called with each run before it starts; may also raise `Interrupted`.
        end: called with the result of each run.

    Returns:
        The results, in the order of `planned`.

    Raises:
        Interrupted: the user stopped it; the same call continues from there.
    """
    with Store(paths.store) as store:
        crew = _Crew(paths, store, planned, jobs, say, begin, end)
        crew.work(tick)
    return [crew.results[one.name] for one in planned]


def by_longest_chain(planned: Sequence[PlannedRun]) -> list[PlannedRun]:
    """Return runs in the order in which they start where several are ready.

    Those that the longest chain of other runs waits for come first, else in the given order: what
    nothing waits for can fill the room beside that chain, but a chain cannot be shortened.

    Args:
        planned: the runs, dependencies first.
    """
    behind = {one.name: 0 for one in planned}
    for one in reversed(planned):
        for need in set(one.needs) & set(behind):
            behind[need] = max(behind[need], behind[one.name] + 1)
    return sorted(planned, key=lambda one: -behind[one.name])


@dataclass(frozen=True)
class _Live:
    """A run that is watched: since when, and its place among those that run at once."""

    planned: PlannedRun
    since: float
    slot: int


class _Crew:
    """The runs of an experiment that wait, those that are live, and how the others ended."""

    def __init__(
        self,
        paths: Paths,
        store: Store,
        planned: Sequence[PlannedRun],
        jobs: int,
        say: Say,
        begin: Callable[[PlannedRun], None] | None,
        end: Callable[[Result], None] | None,
    ) -> None:
        self.paths, self.store, self.jobs, self.say = paths, store, jobs, say
        self.begin, self.end = begin, end
        self.planned = planned
        self.waiting = list(planned) if jobs == 1 else by_longest_chain(planned)
        self.live: dict[str, _Live] = {}
        self.results: dict[str, Result] = {}
        self.stop: Interrupted | None = None
        self.asked: list[str] = []
        self.stopped: list[str] = []

    def work(self, tick: Tick) -> None:
        """Start and watch runs until all have ended. Raises Interrupted as `run_sweep` does."""
        while self.waiting or self.live:
            try:
                if self.live:
                    time.sleep(POLL_SECONDS)
                if self.stop is None:
                    self._start_ready()
                self._look(tick)
            except Interrupted as stop:
                self._stop_all(stop)
            except KeyboardInterrupt:
                if self.stop is not None:
                    self._kill_all()
                self._stop_all(Interrupted("stopped", hint=AGAIN))
            if self.stop is not None and not self.live:
                raise self._interruption(self.stop)

    def _start_ready(self) -> None:
        """Start what waits for nothing, in order, as long as there is room."""
        for one in list(self.waiting):
            if len(self.live) >= self.jobs:
                return
            if any(need not in self.results for need in one.needs):
                continue
            missing = [need for need in one.needs if self.results[need].status not in DONE]
            if missing:
                self.waiting.remove(one)
                note = f"needs {missing[0]}, which {_was(self.results[missing[0]].status)}"
                self._ended(one, "skipped", 0.0, note)
                continue
            if self.begin is not None:
                self.begin(one)
            self.waiting.remove(one)
            self._start(one)

    def _start(self, one: PlannedRun) -> None:
        """Start, join or resume a run without a live worker; a live one is only joined."""
        since = time.time()
        slots = {live.slot for live in self.live.values()}
        slot = next(n for n in range(self.jobs) if n not in slots)
        try:
            state = state_of(self.store, one)
            if state == RunStatus.FINISHED.value:
                self._note_finished(one)
                return
            _start_or_join(self.paths, self.store, one, state, self._share(one, slot))
        except Interrupted:
            # It was asked to stop while it was starting, and is waited for with the others.
            if self.store.run(one.name) is not None and self.live:
                self.live[one.name] = _Live(one, since, slot)
            raise
        except KDHarnessError as error:
            took = time.time() - since
            self._ended(one, "failed", took, str(error).splitlines()[0])
        else:
            self.live[one.name] = _Live(one, since, slot)

    def _note_finished(self, one: PlannedRun) -> None:
        """Note a run that was done before, unless it is of an earlier step that was made again."""
        if replaced := replaced_need(self.store, one, self.planned):
            note = (
                f"it is of an earlier {replaced}, which was made again: remove it (kdharness rm "
                f"{one.name}), and the same command runs it again"
            )
            self._ended(one, "failed", 0.0, note)
            return
        self._ended(one, "done before", 0.0, changed_files(one, find_run(self.store, one.name)))

    def _share(self, one: PlannedRun, slot: int) -> dict[str, str]:
        """Return the share of the machine of a run beside those that are live or can start now."""
        ready = sum(self._is_ready(other) for other in self.waiting)
        abreast = min(self.jobs, len(self.live) + 1 + ready)
        config = one.config
        device = config.trainer.device if isinstance(config, TrainConfig) else "auto"
        if isinstance(config, EvalConfig):
            device = config.device
        gpus = visible_gpus(os.environ, count_gpus()) if self.jobs > 1 else []
        if gpus and isinstance(config, EvalConfig) and _is_split(config, self.paths):
            return {}
        return machine_share(slot, abreast, device, os.environ, usable_cores(), gpus)

    def _is_ready(self, one: PlannedRun) -> bool:
        """Return whether a run that waits could start now, and has not been done before."""
        ended = [self.results.get(need) for need in one.needs]
        if any(result is None or result.status not in DONE for result in ended):
            return False
        run = self.store.run(one.name)
        return run is None or run.status is not RunStatus.FINISHED

    def _look(self, tick: Tick) -> None:
        """Show the live runs, and note which have ended."""
        shown = []
        for name, live in list(self.live.items()):
            try:
                run = find_run(self.store, name)
            except KDHarnessError as error:
                # Somebody removed it: the others go on.
                del self.live[name]
                self._ended(live.planned, "failed", time.time() - live.since, error.message)
                continue
            status = effective_status(run)
            if status.is_live:
                shown.append(self._state(run))
                continue
            del self.live[name]
            self._note_end(live, run, status)
        if shown:
            tick("; ".join(shown))

    def _state(self, run: Run) -> str:
        loss = f", loss {run.loss:.4f}" if run.loss is not None else ""
        stage = run.info.get("stage", run.status.value) if self.stop is None else "stopping"
        return f"{run.id} {stage} {run.step}/{run.max_steps}{loss}"

    def _note_end(self, live: _Live, run: Run, status: RunStatus) -> None:
        """Store how a run ended. Raises Interrupted: it was stopped."""
        took = time.time() - live.since
        if status is RunStatus.STOPPED:
            self.stopped.append(run.id)
            raise Interrupted(f"{run.id} was stopped", hint=AGAIN)
        if status is RunStatus.FINISHED:
            note = f"loss {run.loss:.4f}" if run.loss is not None else ""
            self._ended(live.planned, "finished", took, note)
        else:
            reason = run.error.splitlines()[0] if run.error else "its process is gone"
            self._ended(live.planned, "failed", took, f"{reason} (kdharness logs {run.id})")

    def _ended(self, one: PlannedRun, status: str, seconds: float, note: str = "") -> None:
        result = Result(one.name, one.step, status, seconds, note)
        self.results[one.name] = result
        if self.end is not None:
            self.end(result)
        took = f" in {seconds:.0f} s" if status in ("finished", "failed") else ""
        details = f": {note}" if note else ""
        self.say(f"[{len(self.results)}/{len(self.planned)}] {one.name} {status}{took}{details}")

    def _stop_all(self, stop: Interrupted) -> None:
        """Ask all live runs to stop with a checkpoint; they are watched until they have."""
        if self.stop is None:
            self.stop, self.asked = stop, list(self.live)
            for name in self.asked:
                self.store.request(name, Request.STOP)

    def _interruption(self, stop: Interrupted) -> Interrupted:
        """Return the error that says which runs were stopped, or had ended before they could be."""
        if self.stopped:
            names = [one.name for one in self.planned if one.name in self.stopped]
            were = "was" if len(names) == 1 else "were"
            return Interrupted(f"{listed(names, 3)} {were} stopped", hint=AGAIN)
        if self.asked:
            ends = ", ".join(f"{name} had {self.results[name].status}" for name in self.asked)
            return Interrupted(f"stopped after {ends}", hint=AGAIN)
        return stop

    def _kill_all(self) -> None:
        """Kill all live runs. Raises Interrupted always."""
        names = list(self.live)
        for name in names:
            # One of another machine or user is left; it was asked to stop.
            with suppress(RunError):
                kill_worker(self.store, name)
        were = "was" if len(names) == 1 else "were"
        stored = "what it had stored" if len(names) == 1 else "what they had stored"
        raise Interrupted(f"{listed(names, 3)} {were} killed; {stored} is kept", hint=AGAIN)


def _is_split(config: EvalConfig, paths: Paths) -> bool:
    """Return whether an evaluation starts a vLLM that needs several GPUs."""
    engines = [*config.judge, config.answer_engine or ""]
    served = any(engine.partition(":")[0] == "vllm" for engine in engines)
    return served and (load_settings(paths).vllm.tensor_parallel_size or 1) > 1


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


def _start_or_join(
    paths: Paths, store: Store, planned: PlannedRun, state: str, share: Mapping[str, str]
) -> None:
    """Start or resume a run without a live worker; a live one is only joined."""
    try:
        if state == "new":
            launch.start(
                paths, planned.config, name=planned.name, in_experiment=True, variables=share
            )
        elif state not in (RunStatus.RUNNING.value, RunStatus.STARTING.value):
            launch.resume(paths, planned.name, in_experiment=True, variables=share)
    except (ConfigError, RunError):
        # Another process may have started it at the same moment: then it is only watched.
        if state_of(store, planned) not in STARTED:
            raise
