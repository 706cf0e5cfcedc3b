"""The process that trains or evaluates: `python -m kdharness.harness.worker --home H RUN`.

It alone writes its run's progress, in at most four commits per second. It handles control
requests between steps, and a thread updates its heartbeat, so that it stays alive in long steps.
"""

from __future__ import annotations

import argparse
import os
import signal
import socket
import sqlite3
import sys
import threading
import time
import traceback
from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any

from kdharness.harness.analysis.leaderboard import leaderboard
from kdharness.harness.analysis.metrics import headlines
from kdharness.harness.config.evaluation import EvalConfig
from kdharness.harness.config.files import parse_stored
from kdharness.harness.config.training import AnyConfig, trains_on_data, trusted_code
from kdharness.harness.errors import Interrupted, KDHarnessError
from kdharness.harness.evaluation.pipeline import run as evaluate
from kdharness.harness.experiments.detached import run_experiment
from kdharness.harness.models.checkpoints import add_made
from kdharness.harness.paths import Paths, find_paths
from kdharness.harness.protocols import Job, MessageReporter, Outcome
from kdharness.harness.registry import TOOLS, TRAINERS, resolve
from kdharness.harness.reports.model_card import model_card
from kdharness.harness.runs.notify import Alerts, tell_end
from kdharness.harness.runs.status import HEARTBEAT_SECONDS, process_started, run_lock
from kdharness.harness.store import Store
from kdharness.harness.store.rows import stored_json
from kdharness.harness.types import Checkpoint, Method, Request, Run, RunStatus
from kdharness.harness.util.atomic import atomic_write_text
from kdharness.harness.util.notices import notices_to
from kdharness.harness.util.os_errors import as_user_error, reserved_space
from kdharness.harness.util.process import (
    count_gpus,
    keep_freed_memory,
    quiet_torchao,
    set_passive_omp_wait,
    use_one_gpu,
)
from kdharness.harness.util.redact import redact, redact_output
from kdharness.harness.util.tables import escape_unencodable

FLUSH_SECONDS = 0.25
LOCK_SECONDS = 5.0
"""A worker that was just killed may not have exited yet."""


class StoreReporter:
    """Writes progress to the store in batches, and handles stop, pause and resume."""

    def __init__(self, store: Store, run: Run) -> None:
        self.store = store
        self.run_id = run.id
        self.info: dict[str, object] = dict(run.info)
        self.on_status: Callable[[RunStatus], None] | None = None
        self.alerts: Alerts | None = None
        self.terminated = threading.Event()
        self._events: list[tuple[float, str, str, dict[str, Any]]] = []
        self._points: list[tuple[str, int, float, float]] = []
        self._columns: dict[str, object] = {}
        self._flushed = 0.0
        self._checked = 0.0
        self._first = True

    def stage(self, name: str, total: int) -> None:
        """Begin a stage; its rate is measured from its first report on."""
        self.info = {
            **self.info,
            "stage": name,
            "stage_began": time.time(),
            "stage_first": 0,
        }
        self.info.pop("stage_last", None)
        self._first = True
        self._columns |= {"step": 0, "max_steps": total}
        self.flush()

    def advance(self, done: int, **values: float) -> None:
        """Store progress; `loss` also becomes the run's last loss."""
        now = time.time()
        if self._first and done > 1:
            self.info |= {"stage_began": now, "stage_first": done}
        self._first = False
        self.info["stage_last"] = now
        self._columns["step"] = done
        if "loss" in values:
            self._columns["loss"] = values["loss"]
        self._points += [(name, done, float(value), now) for name, value in values.items()]
        if self.alerts is not None and values:
            self._tell(self.alerts, values)
        if now - self._flushed >= FLUSH_SECONDS:
            self.flush()

    def _tell(self, alerts: Alerts, values: Mapping[str, float]) -> None:
        """Store what the user's rules say about new values."""
        for rule, message in alerts.see(values):
            self.say(message, kind="alert", rule=rule)

    def say(self, message: str, *, kind: str = "note", **info: object) -> None:
        """Store an event immediately, and print it to the worker's log."""
        print(f"{time.strftime('%H:%M:%S')} {kind}: {message}", flush=True)
        self._events.append((time.time(), kind, message, info))
        self.flush()

    def flush(self) -> None:
        """Write buffered progress in one commit."""
        self._flushed = time.time()
        events, points, columns = self._events, self._points, self._columns
        self._events, self._points, self._columns = [], [], {}
        self.store.add_progress(
            self.run_id,
            events=events,
            points=points,
            heartbeat=self._flushed,
            info=stored_json(self.info),
            **columns,
        )

    def check(self) -> None:
        """Handle pending requests; checks at most ten times per second."""
        now = time.time()
        if now - self._checked < 0.1 and not self.terminated.is_set():
            return
        self._checked = now
        if (self._points or self._columns) and now - self._flushed >= FLUSH_SECONDS:
            self.flush()  # do not delay the latest progress until the next report
        paused = False
        while True:
            for request in self.store.take_requests(self.run_id):
                if request is Request.STOP:
                    self.terminated.set()
                paused = request is Request.PAUSE or (paused and request is not Request.RESUME)
                self._set_status(RunStatus.PAUSED if paused else RunStatus.RUNNING)
            if self.terminated.is_set():
                raise Interrupted("stopped by request")
            if not paused:
                return
            time.sleep(0.2)

    def _set_status(self, status: RunStatus) -> None:
        self._columns["status"] = status.value
        self.say(status.value, kind="status")
        if self.on_status is not None:
            self.on_status(status)


def _print(message: str) -> None:
    """Print a message of a rank other than 0 to the shared log; only rank 0 writes to the store."""
    print(message, flush=True)


def _beat(paths: Paths, run_id: str, done: threading.Event) -> None:
    with Store(paths.store) as store:
        while not done.wait(HEARTBEAT_SECONDS):
            try:
                store.update_run(run_id, heartbeat=time.time())
            except Exception as error:  # a missed heartbeat must not stop the work
                print(f"heartbeat: {error}", file=sys.stderr)


def work(paths: Paths, run_id: str, *, resume: bool) -> int:
    """Execute one run and return the exit code; however it ends is recorded in the store."""
    import filelock

    try:
        with run_lock(paths, run_id).acquire(timeout=LOCK_SECONDS):
            return _work(paths, run_id, resume=resume)
    except filelock.Timeout:
        print(f"another worker is already running {run_id}; exiting", flush=True)
        return 1
    except KDHarnessError as error:
        print(f"error: {error}", flush=True)
        return error.exit_code
    except (OSError, sqlite3.Error) as error:
        # The store itself failed, so the error goes to the log; the run shows as interrupted.
        traceback.print_exc()
        print(f"error: {as_user_error(error, paths.home) or error}", flush=True)
        return 1


def _work(paths: Paths, run_id: str, *, resume: bool) -> int:
    store = Store(paths.store)
    run = store.run(run_id)
    if run is None:
        print(f"no run named {run_id}", file=sys.stderr)
        return 2
    with reserved_space(paths.run(run_id)) as free_space:
        return _execute(paths, store, run, resume, free_space)


def _execute(
    paths: Paths, store: Store, run: Run, resume: bool, free_space: Callable[[], None]
) -> int:
    run_id = run.id
    pid = os.getpid()
    # A queued or prepared run is resumed before it ever began: it is checked like any new one.
    resume = resume and run.started is not None
    store.update_run(
        run_id,
        status=RunStatus.RUNNING.value,
        pid=pid,
        pid_started=process_started(pid),
        host=socket.gethostname(),
        heartbeat=time.time(),
        started=run.started or time.time(),
        finished=None,
        error="",
    )
    _record(store, run_id, "started", "resumed" if resume else "")
    run = store.run(run_id) or run
    reporter = StoreReporter(store, run)
    reporter.alerts = Alerts(paths, store, run)
    signal.signal(signal.SIGTERM, lambda *_: reporter.terminated.set())
    done = threading.Event()
    beat = threading.Thread(target=_beat, args=(paths, run_id, done), daemon=True)
    beat.start()
    status, error, code = RunStatus.FINISHED, "", 0
    try:
        columns = do_work(paths, store, run, reporter, resume)
    except Interrupted:
        status, columns, code = RunStatus.STOPPED, {}, 130
    except KDHarnessError as problem:
        status, columns, code = RunStatus.FAILED, {}, problem.exit_code
        error = redact(str(problem), shapes=True)
    except BaseException as problem:
        free_space()
        traceback.print_exc()
        user_error = as_user_error(problem, paths.home)
        code = user_error.exit_code if user_error else 1
        status, columns = RunStatus.FAILED, {}
        error = str(user_error) if user_error else f"{type(problem).__name__}: {problem}"
        error = redact(error, shapes=True)
    finally:
        done.set()
        beat.join()
        free_space()
    reporter.flush()
    store.update_run(
        run_id, status=status.value, error=error[:4000], finished=time.time(), **columns
    )
    _record(store, run_id, "ended", error[:4000] or status.value)
    tell_end(paths, store, run, status, error)
    store.close()
    return code


def _record(store: Store, run_id: str, kind: str, message: str) -> None:
    """Store an event and print it, so that its place in the log is known."""
    print(f"{time.strftime('%H:%M:%S')} {kind}: {message}", flush=True)
    store.add_event(run_id, kind, message)


def do_work(
    paths: Paths, store: Store, run: Run, reporter: StoreReporter, resume: bool
) -> dict[str, object]:
    """Do the work; return the columns of the run to update."""
    if run.method == Method.SWEEP:
        run_experiment(paths, run, reporter)
        return {}
    values = store.places.moved(run.config)
    if values != run.config:
        reporter.say(f"reading this home's files, not those of {store.places.former[0]}")
    config = parse_stored(values, where=f"{run.folder}/config.yaml")
    if trusted := trusted_code(config):
        reporter.info["trusted_code"] = trusted
        reporter.say(f"running code from {', '.join(trusted)}", kind="warning")
    if isinstance(config, EvalConfig):
        with notices_to(reporter.say):
            result = evaluate(config, paths, store, reporter)
        reporter.info["result"] = result
        # Computed here once, so that the leaderboard's first view has it already.
        scores = leaderboard(store, paths, checkpoints=result["checkpoints"])
        if config.track:
            track = resolve(TOOLS, "track_scores", "tool")
            track(config.track, headlines(scores), paths.run(run.id), reporter)
        return {}
    outcome = _train(
        config,
        Job(
            paths=paths,
            run=run.id,
            folder=paths.run(run.id),
            reporter=reporter,
            resume=resume,
            rank=0,
            world=int(os.environ.get("WORLD_SIZE", "1")),
        ),
    )
    if trusted:
        outcome = replace(outcome, info={**outcome.info, "trusted_code": trusted})
    checkpoint = _register(paths, run, outcome, reporter)
    reporter.info.update(outcome.info)
    for line in reporter.alerts.without_a_curve() if reporter.alerts else ():
        reporter.say(line)
    return {"checkpoint": checkpoint.name}


def _train(config: AnyConfig, job: Job) -> Outcome:
    if trains_on_data(config) and job.world == 1:
        device, gpu, count = use_one_gpu(config.trainer.device, os.environ, count_gpus())
        trainer = config.trainer.model_copy(update={"device": device})
        config = config.model_copy(update={"trainer": trainer})
        if count > 1 and gpu:
            job.reporter.say(
                f"{count} GPUs are visible, GPU {gpu} is used; to use several: --accelerate"
            )
    outcome: Outcome = resolve(TRAINERS, config.method, "method")(config, job)
    return outcome


def _register(paths: Paths, run: Run, outcome: Outcome, reporter: StoreReporter) -> Checkpoint:
    """Store the run's weights as checkpoints `RUN`, `RUN@best` and so on, with model cards."""
    stored: list[Checkpoint] = []
    code = {key: outcome.info[key] for key in ("trusted_code",) if key in outcome.info}
    for suffix, made in {"": outcome, **outcome.others}.items():
        checkpoint = add_made(
            paths,
            made.folder,
            name=f"{run.id}@{suffix}" if suffix else run.id,
            method=run.method,
            run=run.id,
            step=made.step,
            parents=made.parents,
            config_hash=run.config_hash,
            info={**made.info, **code},
            reporter=reporter,
        )
        try:
            atomic_write_text(made.folder / "README.md", model_card(paths, checkpoint.name))
        except (OSError, KDHarnessError) as error:
            # The weights are saved and registered; the model card can be made later.
            reporter.say(
                f"{checkpoint.name} is saved, but not its README: {error}; to create it, run: "
                f"kdharness export model-card {checkpoint.name}",
                kind="warning",
            )
        stored.append(checkpoint)
    return stored[0]


def _work_on_rank(paths: Paths, run_id: str, rank: int, resume: bool) -> int:
    """Run the training on a rank other than 0, without writing to the store."""
    with Store(paths.store) as store:
        run, places = store.run(run_id), store.places
    if run is None:
        return 2
    config = parse_stored(places.moved(run.config), where=f"{run.folder}/config.yaml")
    try:
        _train(
            config,
            Job(
                paths=paths,
                run=run_id,
                folder=paths.run(run_id),
                reporter=MessageReporter(_print),
                resume=resume,
                rank=rank,
                world=int(os.environ.get("WORLD_SIZE", "1")),
            ),
        )
    except Interrupted:
        return 130
    return 0


def main() -> None:
    """Run the worker process."""
    parser = argparse.ArgumentParser()
    parser.add_argument("run")
    parser.add_argument("--home", required=True)
    parser.add_argument("--resume", action="store_true")
    args = parser.parse_args()
    # Progress bars and warnings of libraries are not shown; progress goes through the store.
    escape_unencodable()
    redact_output()
    set_passive_omp_wait()
    keep_freed_memory(count_gpus())
    quiet_torchao()
    os.environ.setdefault("TRANSFORMERS_VERBOSITY", "error")
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
    paths = find_paths(args.home)
    rank = int(os.environ.get("RANK", "0"))
    if rank:
        sys.exit(_work_on_rank(paths, args.run, rank, args.resume))
    sys.exit(work(paths, args.run, resume=args.resume))


if __name__ == "__main__":
    main()
