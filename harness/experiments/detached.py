"""An experiment as a run of its own: a worker that starts other workers and outlives the app.

Its row in the store has the method `sweep` and counts runs instead of steps. It makes no
checkpoint and loads no model: it waits for the current runs, and forwards stop and pause to them.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any, Protocol, cast

from kdharness.harness.config.base import reading_stored
from kdharness.harness.config.files import dump_config
from kdharness.harness.config.training import config_hash
from kdharness.harness.errors import ConfigError, Interrupted, RunError
from kdharness.harness.experiments.chosen_test import check_test
from kdharness.harness.experiments.expand import (
    PlannedRun,
    SweepConfig,
    inline_files,
    keep_copy,
    load_sweep,
)
from kdharness.harness.experiments.run import DONE, Result, prepare, run_sweep, state_of
from kdharness.harness.paths import Paths
from kdharness.harness.protocols import Reporter
from kdharness.harness.runs import launch
from kdharness.harness.runs.status import AT_WORK, effective_status
from kdharness.harness.store import Store
from kdharness.harness.types import Method, Request, Run, RunStatus
from kdharness.harness.util.atomic import atomic_write_text
from kdharness.harness.util.text import listed


class ExperimentReporter(Reporter, Protocol):
    """The parts of a worker's reporter that an experiment needs beyond `Reporter`."""

    info: dict[str, Any]
    on_status: Callable[[RunStatus], None] | None

    def flush(self) -> None:
        """Write buffered progress."""
        ...


def sweep_run_id(name: str) -> str:
    """Return the id of the run of an experiment."""
    return f"sweep-{name}"


# ---------------------------------------------------------------- starting


def start_sweep(paths: Paths, file: Path, *, jobs: int | None = None) -> Run:
    """Start an experiment's worker; resume it if it was stopped, join it if it is live.

    Args:
        paths: the home.
        file: the experiment's file.
        jobs: how many runs at once, instead of the file's own number.

    Raises:
        ConfigError: the file is invalid.
        RunError: a run of one of its names exists with different settings, or the experiment is
            running with different settings.
    """
    sweep, planned = load_sweep(file)
    check_test(file, sweep, planned)
    with Store(paths.store) as store:
        for planned_run in planned:
            state_of(store, planned_run)
    keep_copy(paths, file, sweep)
    whole = inline_files(sweep, file.resolve().parent, str(file))
    if jobs is not None:
        whole = whole.model_copy(update={"jobs": jobs})
    run_id = sweep_run_id(sweep.name)
    run = _stored(paths, run_id)
    if run is None:
        try:
            # `start` accepts any config with a method that can be written as YAML.
            return launch.start(paths, cast(Any, whole), name=run_id)
        except ConfigError:
            # Another process may just have started it.
            run = _stored(paths, run_id)
            if run is None:
                raise
    return _continue(paths, run, whole)


def _stored(paths: Paths, run_id: str) -> Run | None:
    with Store(paths.store) as store:
        return store.run(run_id)


def _continue(paths: Paths, run: Run, whole: SweepConfig) -> Run:
    """Join or resume the worker of an experiment that was started before."""
    if run.method != Method.SWEEP:
        raise RunError(
            f"a run named {run.id!r} exists, but is not an experiment",
            hint="rename the experiment",
        )
    status = effective_status(run)
    identity = config_hash(cast(Any, whole))
    if status.is_live and run.config_hash != identity:
        raise RunError(
            f"{run.id} is running with different settings",
            hint=f"stop it first: kdharness stop {run.id}",
        )
    if status in (RunStatus.STARTING, RunStatus.RUNNING):
        return run
    if run.config_hash != identity:
        # More seeds or another step: runs that both have in common are not repeated.
        with Store(paths.store) as store:
            values = whole.model_dump(mode="json", by_alias=True)
            store.update_run(run.id, config=values, config_hash=identity)
        text = dump_config(cast(Any, whole), full=True)
        atomic_write_text(paths.run(run.id) / "config.yaml", text)
    try:
        return launch.resume(paths, run.id)
    except RunError:
        current = _stored(paths, run.id)
        if current is None or not effective_status(current).is_live:
            raise
        return current


# ---------------------------------------------------------------- working


def run_experiment(paths: Paths, run: Run, reporter: ExperimentReporter) -> None:
    """Run the experiment of a run.

    Raises:
        Interrupted: stopped; the current run was stopped with a checkpoint.
        RunError: a run failed; the message says which, and how many finished.
    """
    sweep, planned = stored_sweep(paths, run)

    def say(text: str) -> None:
        reporter.check()
        reporter.say(text)

    prepare(paths, sweep, say)
    work = _Work(paths, planned, reporter)
    try:
        results = run_sweep(
            paths,
            planned,
            reporter.say,
            work.tick,
            jobs=sweep.jobs,
            begin=work.begin,
            end=work.end,
        )
    except Interrupted as stop:
        reporter.say(stop.message)
        raise
    finally:
        reporter.on_status = None
        reporter.info.pop("at_work", None)
    failure = what_failed(results)
    if failure:
        raise RunError(failure)


def stored_sweep(paths: Paths, run: Run) -> tuple[SweepConfig, list[PlannedRun]]:
    """Read a stored experiment and its runs.

    They are read from the file in the run's folder: the order of steps and settings matters (for
    names as well), and the store does not keep it.

    Raises:
        ConfigError: the file is missing, or no longer matches the run.
    """
    file = paths.run(run.id) / "config.yaml"
    with reading_stored():
        sweep, planned = load_sweep(file)
    if config_hash(cast(Any, sweep)) != run.config_hash:
        raise ConfigError(
            "the stored config no longer matches this run",
            where=str(file),
            hint="start the experiment again from its own file",
        )
    return sweep, planned


class _Work:
    """Reports the progress of an experiment and forwards requests to its current runs."""

    def __init__(
        self, paths: Paths, planned: Sequence[PlannedRun], reporter: ExperimentReporter
    ) -> None:
        self.paths, self.reporter = paths, reporter
        self.at_work: list[str] = []
        self.paused = False
        with Store(paths.store) as store:
            self.done = {
                run.name for run in planned if state_of(store, run) == RunStatus.FINISHED.value
            }
        reporter.on_status = self.pass_on
        reporter.stage("runs", len(planned))
        reporter.advance(len(self.done))
        # Runs finished earlier do not count for the ETA.
        reporter.info["stage_first"] = len(self.done)
        reporter.flush()

    def begin(self, run: PlannedRun) -> None:
        """Begin the next run; handle a stop or pause requested between two runs."""
        self.reporter.check()
        self._show([*self.at_work, run.name])

    def end(self, result: Result) -> None:
        """Count the run if it finished."""
        self._show([name for name in self.at_work if name != result.name])
        if result.status in DONE:
            self.done.add(result.name)
            self.reporter.advance(len(self.done))

    def _show(self, at_work: list[str]) -> None:
        self.at_work = at_work
        self.reporter.info["at_work"] = AT_WORK.join(at_work)
        self.reporter.flush()

    def tick(self, _: str) -> None:
        """Check for requests."""
        self.reporter.check()

    def pass_on(self, status: RunStatus) -> None:
        """Pause or resume the current runs together with the experiment."""
        paused = status is RunStatus.PAUSED
        if paused == self.paused:
            return
        self.paused = paused
        for name in self.at_work:
            # The run may have just ended.
            with suppress(RunError):
                launch.ask(self.paths, name, Request.PAUSE if paused else Request.RESUME)


def what_failed(results: Sequence[Result]) -> str:
    """Describe which runs failed and were skipped, and how many finished; empty if none failed."""
    failed = [result for result in results if result.status == "failed"]
    if not failed:
        return ""
    first = failed[0]
    names = [result.name for result in failed]
    parts = [f"{listed(names, 3)} failed"]
    skipped = [result.name for result in results if result.status == "skipped"]
    if skipped:
        need, was = ("needs", "was") if len(skipped) == 1 else ("need", "were")
        pronoun = "it" if len(names) == 1 else "them"
        parts.append(f"{listed(skipped, 3)} {need} {pronoun} and {was} skipped")
    done = sum(result.status in DONE for result in results)
    return f"{'; '.join(parts)}; {done} of {len(results)} runs finished. {first.name}: {first.note}"
