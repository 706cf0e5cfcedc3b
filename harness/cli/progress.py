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

LINE_SECONDS = 60.0
"""Where stderr is not a terminal, between two lines of one stage."""


def progress_text(run: Run) -> str:
    """Return what a run is doing: `training 12/40, ETA 1:05, loss 2.3456`; unknown parts go."""
    stage = str(run.info.get("stage") or run.method)
    parts = [f"{stage} {run.step}/{run.max_steps}" if run.max_steps else stage]
    if remaining := clock(eta(run, time.time())):
        parts.append(f"ETA {remaining}")
    if run.loss is not None:
        parts.append(f"loss {run.loss:.4f}")
    return ", ".join(parts)


class ProgressView:
    """Progress bars if stderr is a terminal, else a line per stage and at most one a minute."""

    def __init__(self, run_id: str) -> None:
        self.run_id = run_id
        self.console = Console(stderr=True, highlight=False)
        self.live = self.console.is_terminal
        self.bars = Progress(
            TextColumn("{task.description}", markup=False),
            BarColumn(24),
            TextColumn("{task.completed:.0f}/{task.total:.0f}"),
            TimeElapsedColumn(),
            TextColumn("{task.fields[eta]}"),
            TextColumn("{task.fields[note]}", markup=False),
            console=self.console,
            refresh_per_second=4,
        )
        self.stage = ""
        self.task: TaskID | None = None
        self.seen = 0
        self.printed = 0.0
        self.text = ""

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
        if not self.live:
            self._line(run, stage)
            return
        remaining = clock(eta(run, time.time()))
        note = f"loss {run.loss:.4f}" if run.loss is not None else ""
        if stage != self.stage or self.task is None:
            self.stage = stage
            self.task = self.bars.add_task(
                f"{self.run_id} {stage}", total=max(run.max_steps, 1), eta="", note=""
            )
        self.bars.update(
            self.task,
            completed=run.step,
            total=max(run.max_steps, 1),
            eta=f"ETA {remaining}" if remaining else "",
            note=note,
        )

    def _line(self, run: Run, stage: str) -> None:
        """Print a line when a stage has begun, then at most one a minute, if anything moved."""
        text = progress_text(run)
        is_new = stage != self.stage
        if text == self.text or (not is_new and time.time() - self.printed < LINE_SECONDS):
            return
        if is_new and not run.max_steps and not run.info.get("stage"):
            return  # the worker has not said yet what it is doing
        self.printed, self.stage, self.text = time.time(), stage, text
        print(f"{self.run_id}: {text}", file=sys.stderr, flush=True)
