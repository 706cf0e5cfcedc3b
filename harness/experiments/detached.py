"""An experiment as a run of its own: a worker that starts others' workers and outlives the app.

Its row in the store has the method `sweep` and counts runs instead of steps. It makes no
checkpoint, and loads no model: it waits for the run at work, and passes stop and pause on to it.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any, Protocol, cast

from kdharness.harness.config.files import dump_config
from kdharness.harness.config.training import config_hash
from kdharness.harness.errors import ConfigError, Interrupted, RunError
from kdharness.harness.experiments.expand import (
    PlannedRun,
    SweepConfig,
    keep_copy,
    load_sweep,
    spell_out,
)
from kdharness.harness.experiments.run import DONE, Result, prepare, run_sweep, state_of
from kdharness.harness.paths import Paths
from kdharness.harness.protocols import Reporter
from kdharness.harness.runs import launch
from kdharness.harness.runs.status import effective_status
from kdharness.harness.store import Store
from kdharness.harness.types import Method, Request, Run, RunStatus
from kdharness.harness.util.atomic import atomic_write_text


class Telling(Reporter, Protocol):
    """A worker's reporter, as far as an experiment needs more of it than a training."""

    info: dict[str, Any]
    on_status: Any

    def flush(self) -> None:
        """Write what has gathered."""
        ...


def sweep_run_id(name: str) -> str:
    """The run that carries out the experiment of that name."""
    return f"sweep-{name}"


# ---------------------------------------------------------------- starting


def start_sweep(paths: Paths, file: Path) -> Run:
    """Start an experiment's worker; go on with it where it was stopped, join it where it is live.

    Raises:
        ConfigError: the file is wrong.
        RunError: a run of one of its names was made with other settings, or the experiment is
            at work with other settings.
    """
    sweep, planned = load_sweep(file)
    for one in planned:
        state_of(paths, one)
    keep_copy(paths, file, sweep)
    whole = spell_out(sweep, file.resolve().parent, str(file))
    run_id = sweep_run_id(sweep.name)
    run = _stored(paths, run_id)
    if run is None:
        try:
            # `start` takes whatever has a method and can be written as YAML.
            return launch.start(paths, cast(Any, whole), name=run_id)
        except ConfigError:
            # Started by another process at this moment?
            run = _stored(paths, run_id)
            if run is None:
                raise
    return _go_on(paths, run, whole)


def _stored(paths: Paths, run_id: str) -> Run | None:
    with Store(paths.store) as store:
        return store.run(run_id)


def _go_on(paths: Paths, run: Run, whole: SweepConfig) -> Run:
    """Join, wake or resume the worker of an experiment that was started before."""
    if run.method != Method.SWEEP:
        raise RunError(
            f"a run named {run.id!r} exists, and is no experiment",
            hint="give the experiment another name",
        )
    status = effective_status(run)
    identity = config_hash(cast(Any, whole))
    if status.is_live and run.config_hash != identity:
        raise RunError(
            f"{run.id} is at work with other settings",
            hint=f"stop it first: kdharness stop {run.id}",
        )
    if status in (RunStatus.STARTING, RunStatus.RUNNING):
        return run
    if run.config_hash != identity:
        # More seeds, another step: what both have in common is not done again.
        with Store(paths.store) as store:
            values = whole.model_dump(mode="json", by_alias=True)
            store.update_run(run.id, config=values, config_hash=identity)
        text = dump_config(cast(Any, whole), full=True)
        atomic_write_text(paths.run(run.id) / "config.yaml", text)
    try:
        return launch.resume(paths, run.id)
    except RunError:
        again = _stored(paths, run.id)
        if again is None or not effective_status(again).is_live:
            raise
        return again


# ---------------------------------------------------------------- working


def carry_out(paths: Paths, run: Run, reporter: Telling) -> None:
    """Do the experiment of a run.

    Raises:
        Interrupted: stopped; the run at work was stopped with a checkpoint before.
        RunError: something failed; the message says what, and that the rest was done.
    """
    sweep, planned = stored_sweep(paths, run)

    def say(text: str) -> None:
        reporter.check()
        reporter.say(text)

    prepare(paths, sweep, say)
    work = _Work(paths, planned, reporter)
    try:
        results = run_sweep(paths, planned, reporter.say, work.tick, begin=work.begin, end=work.end)
    except Interrupted as stop:
        reporter.say(stop.message)
        raise
    finally:
        reporter.on_status = None
        reporter.info.pop("at_work", None)
    wrong = what_failed(results)
    if wrong:
        raise RunError(wrong)


def stored_sweep(paths: Paths, run: Run) -> tuple[SweepConfig, list[PlannedRun]]:
    """A stored experiment and its runs.

    From the file in the run's folder: the order of steps and settings counts (in names, too),
    and the store does not keep it.

    Raises:
        ConfigError: the file is gone, or says something else than what was started.
    """
    file = paths.run(run.id) / "config.yaml"
    sweep, planned = load_sweep(file)
    if config_hash(cast(Any, sweep)) != run.config_hash:
        raise ConfigError(
            "this is not what was started",
            where=str(file),
            hint="start the experiment again from its own file",
        )
    return sweep, planned


class _Work:
    """What a worker tells of an experiment, and passes on to the run at work."""

    def __init__(self, paths: Paths, planned: Sequence[PlannedRun], reporter: Telling) -> None:
        self.paths, self.reporter = paths, reporter
        self.at_work = ""
        self.paused = False
        self.done = {
            one.name for one in planned if state_of(paths, one) == RunStatus.FINISHED.value
        }
        reporter.on_status = self.pass_on
        reporter.stage("runs", len(planned))
        reporter.advance(len(self.done))
        # What was done before says nothing about how long the rest takes.
        reporter.info["stage_first"] = len(self.done)
        reporter.flush()

    def begin(self, one: PlannedRun) -> None:
        """The next run; a stop or pause that came between two is carried out here."""
        self.at_work = ""
        self.reporter.check()
        self.at_work = one.name
        self.reporter.info["at_work"] = one.name
        self.reporter.flush()

    def end(self, result: Result) -> None:
        """Count it, if its checkpoint or verdicts are there."""
        if result.status in DONE:
            self.done.add(result.name)
            self.reporter.advance(len(self.done))

    def tick(self, _: str) -> None:
        """Look for requests."""
        self.reporter.check()

    def pass_on(self, status: RunStatus) -> None:
        """The run at work pauses and goes on with the experiment."""
        paused = status is RunStatus.PAUSED
        if paused == self.paused:
            return
        self.paused = paused
        try:
            if self.at_work:
                request = Request.PAUSE if paused else Request.RESUME
                launch.ask(self.paths, self.at_work, request)
        except RunError:
            # It has just ended.
            pass


def what_failed(results: Sequence[Result]) -> str:
    """A sentence about what failed, what could not be tried, and the rest; empty if all is well."""
    failed = [result for result in results if result.status == "failed"]
    if not failed:
        return ""
    first = failed[0]
    names = [result.name for result in failed]
    parts = [f"{_listed(names)} failed"]
    skipped = [result.name for result in results if result.status == "skipped"]
    if skipped:
        need, was = ("needs", "was") if len(skipped) == 1 else ("need", "were")
        what = "it" if len(names) == 1 else "them"
        parts.append(f"{_listed(skipped)} {need} {what} and {was} skipped")
    done = sum(result.status in DONE for result in results)
    rest = "the rest was done" if done else "nothing else was left to do"
    return f"{'; '.join(parts)}; {rest} ({done} of {len(results)} runs). {first.name}: {first.note}"


def _listed(names: Sequence[str], most: int = 3) -> str:
    more = f" and {len(names) - most} more" if len(names) > most else ""
    return ", ".join(names[:most]) + more
