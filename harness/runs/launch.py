"""Start, stop, pause, resume and watch runs. Each run is a process in a session of its own.

The launching process writes the run's row, starts a detached worker and waits for its `started`
event; the worker keeps running when the launching process exits. A run that should be live but
whose process is gone (pid and its start time, or the heartbeat on another host) is *interrupted*.
"""

from __future__ import annotations

import os
import secrets
import socket
import sqlite3
import subprocess
import sys
import time
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING

from kdharness.harness.errors import ConfigError, Interrupted, RunError
from kdharness.harness.paths import Paths
from kdharness.harness.runs.log_output import log_path, log_tail
from kdharness.harness.runs.status import effective_status, find_run, info_without
from kdharness.harness.store import Store
from kdharness.harness.store.rows import stored_json
from kdharness.harness.types import Method, Request, Run, RunInfo, RunStatus
from kdharness.harness.util.atomic import atomic_write_text
from kdharness.harness.util.detached import start_detached
from kdharness.harness.util.filesystem import exists, local_path
from kdharness.harness.util.redact import redact

if TYPE_CHECKING:
    from kdharness.harness.config.training import AnyConfig


class DidNotStart(RunError):
    """A worker could not be started, or exited before it started; its run has failed."""


def new_run_id(store: Store, method: str) -> str:
    """Return a short unused name such as `kd-7f3a`."""
    taken = store.run_ids()
    while True:
        name = f"{method}-{secrets.token_hex(2)}"
        if name not in taken:
            return name


def start(
    paths: Paths,
    config: AnyConfig,
    *,
    name: str | None = None,
    accelerate: str | os.PathLike[str] | None = None,
    timeout: float = 120.0,
    in_experiment: bool = False,
    variables: Mapping[str, str] | None = None,
) -> Run:
    """Store a run and start its worker; return once the worker reports that it has started.

    Args:
        paths: the home.
        config: a validated config.
        name: the run's name; defaults to the config's, else derived from the method.
        accelerate: an accelerate config file: the worker runs under `accelerate launch`.
        timeout: seconds to wait for the worker.
        in_experiment: it is one of several, so that its end alone is no news.
        variables: further ones of the worker's environment.

    Raises:
        ConfigError: the name is taken, or there is no such accelerate config file.
        RunError: the worker exited before it started; the hint is the tail of its log.
    """
    with Store(paths.store) as store:
        run_id = name or getattr(config, "name", None)
        if run_id and (taken := store.run(run_id)) is not None:
            raise _taken(taken)
    processes = _accelerate_file(accelerate)
    _check_request(config, paths)
    with Store(paths.store) as store:
        run = _add(paths, store, config, name, processes, RunStatus.STARTING, in_experiment)
        return spawn_worker(
            paths, store, run.id, processes, resume=False, timeout=timeout, variables=variables
        )


def _accelerate_file(given: str | os.PathLike[str] | None) -> str | None:
    """Return the absolute path of an accelerate config file: a run may be resumed anywhere."""
    if given is None:
        return None
    path = local_path(os.fspath(given))
    if not exists(path, folder=False):
        raise ConfigError(
            "no such accelerate config file",
            where=str(given),
            hint="make one with: accelerate config --config_file FILE",
        )
    return str(path.resolve())


def _check_request(given: AnyConfig | Run, paths: Paths, *, hub: bool = True) -> None:
    """Reject what cannot start; the runs of an experiment are checked one by one later."""
    from kdharness.harness.runs.precheck import check_request, stored_config

    if str(given.method) != Method.SWEEP:
        begun = isinstance(given, Run)
        config = stored_config(given, paths) if isinstance(given, Run) else given
        check_request(config, paths, hub=hub, begun=begun)


def _identity(config: AnyConfig) -> str:
    from kdharness.harness.config.training import config_hash

    return config_hash(config)


def prepare(paths: Paths, config: AnyConfig, name: str) -> Run:
    """Store a run for a scheduler to start, or return the run if it was prepared before.

    The processes of a restarted job continue the run of its first start.

    Raises:
        ConfigError: the name belongs to a run with a different config; or, for a new run,
            anything that `check_request` finds missing.
        RunError: it is already live.
    """
    with Store(paths.store) as store:
        run = store.run(name)
    if run is None:
        # The machine that prepares a run may be offline; the workers check the hub again.
        _check_request(config, paths, hub=False)
    with Store(paths.store) as store:
        run = store.run(name)
        if run is None or run.config_hash != _identity(config):
            return _add(paths, store, config, name, None, RunStatus.STOPPED)
        if effective_status(run).is_live:
            raise RunError(f"{name} is already running")
        return run


def add_stopped(
    paths: Paths, config: AnyConfig, name: str | None = None, accelerate: str | None = None
) -> Run:
    """Store a run that is resumed later. Raises ConfigError as `start` does."""
    processes = _accelerate_file(accelerate)
    with Store(paths.store) as store:
        return _add(paths, store, config, name, processes, RunStatus.STOPPED)


def _taken(run: Run) -> ConfigError:
    status = effective_status(run)
    if status is RunStatus.FINISHED:
        hint = f"choose another name, or remove that run: kdharness rm {run.id}"
    elif status.is_live:
        hint = f"choose another name, or follow that run: kdharness logs {run.id} --follow"
    else:
        hint = f"choose another name, or continue that run: kdharness resume {run.id}"
    return ConfigError(f"a run named {run.id!r} already exists, {status.value}", hint=hint)


def _add(
    paths: Paths,
    store: Store,
    config: AnyConfig,
    name: str | None,
    accelerate: str | None,
    status: RunStatus,
    in_experiment: bool = False,
) -> Run:
    """Store a new run and create its folder."""
    from kdharness.harness.config.files import dump_config

    run_id = name or getattr(config, "name", None) or new_run_id(store, config.method)
    folder = paths.run(run_id)
    info: RunInfo = {"accelerate": accelerate} if accelerate else {}
    if in_experiment:
        info["in_experiment"] = True
    run = Run(
        id=run_id,
        method=config.method,
        status=status,
        config=config.model_dump(mode="json", by_alias=True),
        config_hash=_identity(config),
        folder=str(folder),
        created=time.time(),
        host=socket.gethostname(),
        info=info,
    )
    try:
        store.add_run(run)
    except sqlite3.IntegrityError as error:
        raise _taken(store.run(run_id) or run) from error
    folder.mkdir(parents=True, exist_ok=True)
    atomic_write_text(folder / "config.yaml", dump_config(config, full=True))
    return run


def spawn_worker(
    paths: Paths,
    store: Store,
    run_id: str,
    accelerate: str | None,
    *,
    resume: bool,
    timeout: float,
    variables: Mapping[str, str] | None = None,
) -> Run:
    """Start the worker process of a stored run and wait until it reports that it has started.

    Raises:
        DidNotStart: there is no process, or it exited before that.
        RunError: it did not start in time.
        Interrupted: Ctrl-C; the worker was asked to stop.
    """
    command = [sys.executable, "-m"]
    if accelerate:
        command += ["accelerate.commands.launch", "--config_file", accelerate, "-m"]
    command += ["kdharness.harness.worker", "--home", str(paths.home), run_id]
    if resume:
        command.append("--resume")
    seen = store.newest_event(run_id)
    log = log_path(paths, run_id)
    try:
        log.parent.mkdir(parents=True, exist_ok=True)
        with log.open("ab") as sink:
            process = start_detached(command, sink, variables)
    except OSError as error:
        why = f"the worker cannot be started: {error}"
        record_failure(paths, store, run_id, why)
        raise DidNotStart(
            f"{run_id}: {why}", hint=f"then run: kdharness resume {run_id}"
        ) from error
    try:
        return _wait_until_started(paths, store, run_id, process, seen, timeout)
    except KeyboardInterrupt:
        # The worker may just have started; after Ctrl-C it is no longer wanted.
        store.request(run_id, Request.STOP)
        raise Interrupted(
            f"{run_id} was asked to stop while it was starting",
            hint=f"see: kdharness show {run_id}",
        ) from None


def _wait_until_started(
    paths: Paths,
    store: Store,
    run_id: str,
    process: subprocess.Popen[bytes],
    seen: int,
    timeout: float,
) -> Run:
    deadline = time.time() + timeout
    while time.time() < deadline:
        if any(event["kind"] == "started" for event in store.events(run_id, seen)):
            return find_run(store, run_id)
        if process.poll() is not None:
            record_failure(paths, store, run_id, "did not start")
            raise DidNotStart(
                f"the worker of {run_id} exited before it started", hint=log_tail(paths, run_id, 15)
            )
        time.sleep(0.05)
    raise RunError(
        f"the worker of {run_id} did not start within {timeout:.0f} s",
        hint=f"see: kdharness logs {run_id}",
    )


def record_failure(paths: Paths, store: Store, run_id: str, error: str) -> None:
    """Store and tell that a run without a worker has failed, as its worker would have done."""
    from kdharness.harness.runs.notify import tell_end

    failed = RunStatus.FAILED
    now, text = time.time(), redact(error, shapes=True)[:4000]
    store.update_run(run_id, status=failed.value, error=text, finished=now)
    store.add_event(run_id, "ended", text)
    if (run := store.run(run_id)) is not None:
        tell_end(paths, store, run, failed, text)


def ask(paths: Paths, run_id: str, request: Request) -> Run:
    """Send a control request to a live run. Raises RunError when it is not live."""
    with Store(paths.store) as store:
        run = find_run(store, run_id)
        if not effective_status(run).is_live:
            raise RunError(f"{run_id} is not running: {effective_status(run).value}")
        store.request(run_id, request)
        return run


def wait(
    paths: Paths,
    run_id: str,
    timeout: float = 600.0,
    show: Callable[[Run], None] = lambda _: None,
) -> Run:
    """Wait until the run is no longer live; `show` is called with it several times per second."""
    deadline = time.time() + timeout
    with Store(paths.store) as store:
        while time.time() < deadline:
            run = find_run(store, run_id)
            if not effective_status(run).is_live:
                return run
            show(run)
            time.sleep(0.1)
    raise RunError(f"{run_id} did not end within {timeout:.0f} s")


def resume(
    paths: Paths,
    run_id: str,
    *,
    timeout: float = 120.0,
    in_experiment: bool = False,
    variables: Mapping[str, str] | None = None,
) -> Run:
    """Resume a run that was paused, stopped or interrupted, or that failed.

    A run that no worker has begun is checked and started like a new one.

    Args:
        paths: the home.
        run_id: the run's name.
        timeout: seconds to wait for the worker.
        in_experiment: an experiment resumes it, so that its end alone is no news.
        variables: further ones of the worker's environment.

    Raises:
        RunError: it is running or finished, or its worker exited before it started.
        ConfigError, DataError, ModelError, AssetError: what a first start needs is missing.
    """
    with Store(paths.store) as store:
        run = find_run(store, run_id)
        status = effective_status(run)
        if status is RunStatus.PAUSED:
            store.request(run_id, Request.RESUME)
            return run
        if status.is_live:
            raise RunError(f"{run_id} is already running")
        if status is RunStatus.FINISHED and run.method not in (Method.EVAL, Method.SWEEP):
            raise RunError(f"{run_id} is finished; there is nothing to resume")
        accelerate = _accelerate_file(run.info.get("accelerate"))
        if run.started is None:
            _check_request(run, paths)
        info = info_without(run, "queued", "in_experiment")
        if in_experiment:
            info["in_experiment"] = True
        # Two processes may try to resume it at once: only one may claim it.
        claimed = store.claim_run(
            run,
            status=RunStatus.STARTING.value,
            pid=None,
            heartbeat=time.time(),
            error="",
            host=socket.gethostname(),
            info=stored_json(info),
        )
        if not claimed:
            raise RunError(f"{run_id} is already running: it was just resumed elsewhere")
        store.take_requests(run_id)
        return spawn_worker(
            paths, store, run_id, accelerate, resume=True, timeout=timeout, variables=variables
        )
