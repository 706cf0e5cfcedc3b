"""News of runs while the app is open: what ended, failed or went wrong, on any screen.

A run's worker runs the user's command (`notify:` in settings.yaml), also when no app is open. A
worker that was killed cannot: the app that sees it go does so in its place.
"""

from __future__ import annotations

import importlib
import os
import time
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from kdharness.harness import store as stores
from kdharness.harness.runs.status import effective_status, end_message, is_here, is_part
from kdharness.harness.types import Run, RunStatus
from kdharness.tui.terminal import notification
from kdharness.tui.threads import Background

if TYPE_CHECKING:
    import subprocess

    from kdharness.harness.store import Store

QUIET = ("finished", "stopped")
"""Ends of an experiment's runs that are no news: the experiment's own end is."""
WENT = "interrupted"
MANY = 4
SKEW_SECONDS = 300.0
"""How far the clock of another machine that shares the home may be behind."""


class Notices(Background):
    """Tells of ends and alerts: a line in the app, the terminal's bell and notification."""

    rings = True
    demo_process: subprocess.Popen[bytes] | None = None
    _news = -1
    _since = 0.0
    _alive: Mapping[str, Run] = {}
    _demo_ran = False

    if TYPE_CHECKING:

        @property
        def store(self) -> Store:
            """See the app."""

        @property
        def demo_is_running(self) -> bool:
            """See the app."""

        def with_keys(self, text: str) -> str:
            """See the app."""

    def begin_news(self) -> None:
        """Begin with what is stored now."""
        self._news = self.store.newest_event()
        self._since = time.time() - SKEW_SECONDS
        self._note_alive()

    def look_for_news(self, changed: bool) -> None:
        """Tell what has happened since the last call.

        Args:
            changed: the store was written to.
        """
        for run in self._alive.values():
            if effective_status(run) is RunStatus.INTERRUPTED:
                self._gone(run)
        if changed:
            self._tell_events()
            self._note_alive()
        if self._demo_ran and not self.demo_is_running:
            self.ring("the demo has ended")
        self._demo_ran = self.demo_is_running

    def _tell_events(self) -> None:
        """Tell of new events; of many at once, the last ones."""
        told = []
        for number, name, kind, message in self.store.news(self._news, self._since):
            self._news = number
            run = self.store.run(name)
            if run is not None and not (kind == "ended" and message in QUIET and is_part(run)):
                told.append((run, kind, message))
        if len(told) > MANY:
            left = len(told) - MANY
            self.notify(f"{left} more have ended in the meantime", timeout=15, markup=False)
        for run, kind, message in told[-MANY:]:
            self._tell_event(run, kind, message)

    def _note_alive(self) -> None:
        live = self.store.live_runs()
        self._alive = {
            run.id: run for run in live if effective_status(run) is not RunStatus.INTERRUPTED
        }

    def _tell_event(self, run: Run, kind: str, message: str) -> None:
        if kind == "alert":
            self.tell_news(f"{run.id}: {message}", "warning")
            return
        state = message if message in QUIET else "failed"
        error = message if state == "failed" else ""
        self.tell_news(
            end_message(run, state, error),
            "error" if error else "information",
            ring=state != "stopped",
        )

    def _gone(self, run: Run) -> None:
        """Tell of a run whose process is gone, unless it has ended in the meantime."""
        now = self.store.run(run.id)
        self._alive = {name: other for name, other in self._alive.items() if name != run.id}
        if now is None or effective_status(now) is not RunStatus.INTERRUPTED:
            return
        message = end_message(
            run, WENT, self.with_keys("its process is gone; it can be resumed ({runs.pause:p})")
        )
        self.tell_news(message, "error")
        paths = self.paths
        if not is_here(now):
            return  # what is known of another machine is that nothing was heard from it

        def work() -> None:
            notify: Any = importlib.import_module("kdharness.harness.runs.notify")
            with stores.Store(paths.store) as store:
                notify.tell_interrupted(paths, store, now)

        self.in_thread(work)

    def tell_news(self, message: str, severity: Any, *, ring: bool = True) -> None:
        """Show a line that stays for a while, and ring."""
        self.notify(message, severity=severity, timeout=15, markup=False)
        if ring:
            self.ring(message)

    def ring(self, message: str) -> None:
        """Ring the terminal's bell and send it a notification, unless settings say not to."""
        if self.rings and self._driver is not None and not self.is_headless:
            self._driver.write(notification(message, os.environ))
