"""Progress of a run on stderr: one bar per stage, with elapsed time and ETA."""

from __future__ import annotations

import sys
import time
from typing import Self

from rich.console import Console
from rich.progress import BarColumn, Progress, TaskID, TextColumn, TimeElapsedColumn
from rich.text import Text

from kdharness.harness.runs.summary import eta
from kdharness.harness.store import Store
from kdharness.harness.types import Run
from kdharness.harness.util.text import clock, safe_text

UNKNOWN = "–:––"


class ProgressView:
    """Progress bars if stderr is a terminal, else a line every ten seconds."""

    def __init__(self, run_id: str) -> None:
        self.run_id = run_id
        self.console = Console(stderr=True, highlight=False)
        self.live = self.console.is_terminal
        self.bars = Progress(
            TextColumn("{task.description}", markup=False),
            BarColumn(24),
            TextColumn("{task.completed:.0f}/{task.total:.0f}"),
            TimeElapsedColumn(),
            TextColumn("ETA {task.fields[eta]}"),
            TextColumn("{task.fields[note]}", markup=False),
            console=self.console,
            refresh_per_second=4,
        )
        self.stage = ""
        self.task: TaskID | None = None
        self.seen = 0
        self.printed = 0.0

    def __enter__(self) -> Self:
        if self.live:
            self.bars.start()
        return self

    def __exit__(self, *_: object) -> None:
        if self.live:
            self.bars.stop()

    def say(self, message: str) -> None:
        """Print a line above the bars."""
        self.console.print(Text(safe_text(message)))

    def show(self, run: Run, store: Store) -> None:
        """Update the display from the store."""
        for event in store.events(self.run_id, self.seen):
            self.seen = event["id"]
            if event["kind"] in {"note", "warning"} and event["message"]:
                self.say(f"{self.run_id}: {event['message']}")
        stage = str(run.info.get("stage", run.method))
        remaining = clock(eta(run, time.time())) or UNKNOWN
        note = f"loss {run.loss:.4f}" if run.loss is not None else ""
        if not self.live:
            self._line(run, stage, remaining, note)
            return
        if stage != self.stage or self.task is None:
            self.stage = stage
            self.task = self.bars.add_task(
                f"{self.run_id} {stage}", total=max(run.max_steps, 1), eta="", note=""
            )
        self.bars.update(
            self.task, completed=run.step, total=max(run.max_steps, 1), eta=remaining, note=note
        )

    def _line(self, run: Run, stage: str, remaining: str, note: str) -> None:
        if time.time() - self.printed < 10 and stage == self.stage:
            return
        self.printed, self.stage = time.time(), stage
        print(
            f"{self.run_id} {stage}: {run.step}/{run.max_steps}, ETA {remaining} {note}".rstrip(),
            file=sys.stderr,
            flush=True,
        )
