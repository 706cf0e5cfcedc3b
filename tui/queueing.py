"""Runs that wait until nothing else runs, for the app's dialogs and screens."""

from __future__ import annotations

import importlib
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from textual.screen import Screen

from kdharness.harness.errors import RunError
from kdharness.harness.util.text import listed
from kdharness.tui.screens.base import PlaceScreen
from kdharness.tui.selecting import Selecting


class Queueing(Selecting):
    """Puts runs into the queue, whose process is started when it is not there."""

    if TYPE_CHECKING:

        def tell(self, message: str) -> None:
            """See the app."""

        async def action_go(self, place: str) -> None:
            """See the app."""

    def queue_run(self, form: Screen[Any], config: Any) -> None:
        """Store a run that starts when nothing else runs, and show the queue."""

        def work() -> str:
            queue = importlib.import_module("kdharness.harness.runs.queue")
            name: str = queue.add(self.paths, config).id
            queue.keep(self.paths)
            return name

        async def done(run: str) -> None:
            if isinstance(form, PlaceScreen):
                form.has_started()
            self.tell(f"{run} waits until nothing else runs")
            if self.screen is form:
                await self.action_go("queue")

        self.in_thread(work, done)

    def enqueue(self, runs: Sequence[str]) -> None:
        """Let stopped runs wait until nothing else runs, in this order."""

        def work() -> str:
            queue = importlib.import_module("kdharness.harness.runs.queue")
            problems = []
            for run in runs:
                try:
                    queue.enqueue(self.paths, run)
                except RunError as error:
                    problems.append(str(error))
            queue.keep(self.paths)
            if problems:
                raise RunError("; ".join(problems))
            return f"{listed(list(runs))} wait{'s' * (len(runs) == 1)} until nothing else runs"

        if runs:
            self.in_thread(work, self.tell)

    def keep_queue(self) -> None:
        """Go on with a queue whose process has ended with the machine."""

        def work() -> None:
            importlib.import_module("kdharness.harness.runs.queue").keep(self.paths)

        self.in_thread(work)
