"""Fake workers of runs."""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Callable, Mapping
from typing import Any

from kdharness.harness.paths import Paths
from kdharness.harness.runs.status import find_run, process_started
from kdharness.harness.store import Store
from kdharness.harness.types import Request, Run


class Workers:
    """Fake workers: threads that take requests and finish as configured, without training."""

    def __init__(self) -> None:
        self.spawned: list[str] = []
        self.variables: dict[str, dict[str, str]] = {}
        self.seconds = 0.05
        self.seconds_of: dict[str, float] = {}
        self.broken: set[str] = set()
        self.threads: list[threading.Thread] = []

    def spawn(
        self,
        paths: Paths,
        store: Store,
        run_id: str,
        accelerate: Any,
        *,
        resume: bool,
        timeout: float,
        variables: Mapping[str, str] | None = None,
    ) -> Run:
        self.spawned.append(run_id)
        self.variables[run_id] = dict(variables or {})
        pid = os.getpid()
        store.update_run(
            run_id,
            status="running",
            pid=pid,
            heartbeat=time.time(),
            pid_started=process_started(pid),
        )
        if not run_id.startswith("sweep-"):
            thread = threading.Thread(target=self.train, args=(paths, run_id), daemon=True)
            self.threads.append(thread)
            thread.start()
        return find_run(store, run_id)

    def train(self, paths: Paths, run_id: str) -> None:
        left, paused = self.seconds_of.get(run_id, self.seconds), False
        with Store(paths.store) as store:
            while left > 0:
                for request in store.take_requests(run_id):
                    if request is Request.STOP:
                        store.update_run(run_id, status="stopped")
                        return
                    paused = request is Request.PAUSE
                    store.update_run(run_id, status="paused" if paused else "running")
                time.sleep(0.01)
                left -= 0 if paused else 0.01
            broken = run_id in self.broken
            store.update_run(
                run_id,
                status="failed" if broken else "finished",
                error="the data ran out" if broken else "",
            )


def stored_run(paths: Paths, run_id: str) -> Run:
    """Return the current row of a run."""
    with Store(paths.store) as store:
        return find_run(store, run_id)


def in_thread(act: Callable[[], None]) -> threading.Thread:
    """Run the function in a background thread."""
    thread = threading.Thread(target=act, daemon=True)
    thread.start()
    return thread
