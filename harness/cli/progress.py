"""Progress of a run on stderr: bars, lines, JSON lines for programs, or nothing."""

from __future__ import annotations

import json
import math
import sys
import time
from typing import Protocol, Self

import click
from rich.console import Console
from rich.progress import BarColumn, Progress, TaskID, TextColumn, TimeElapsedColumn
from rich.text import Text

from kdharness.harness.cli.main import PROGRESS
from kdharness.harness.runs.status import effective_status
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


class View(Protocol):
    """Shows the progress of a run."""

    def __enter__(self) -> Self: ...

    def __exit__(self, *_: object) -> None: ...

    def say(self, message: str) -> None:
        """Show a message about the command itself."""
        ...

    def show(self, run: Run, store: Store) -> None:
        """Show the run's state; called a few times per second."""
        ...


def progress_view(run_id: str, after: int = 0) -> View:
    """Return the view that the command line asks for, of events whose id is above `after`."""
    context = click.get_current_context(silent=True)
    kind = context.meta.get(PROGRESS, "auto") if context is not None else "auto"
    if kind == "json":
        return JsonView(run_id, after)
    return QuietView() if kind == "none" else ProgressView(run_id, after)


class QuietView:
    """Shows nothing: errors are printed by the command."""

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        pass

    def say(self, message: str) -> None:
        """Drop the message."""

    def show(self, run: Run, store: Store) -> None:
        """Show nothing."""


class JsonView(QuietView):
    """One JSON object a line: `progress` when something moved, `note`, `warning`, `ended`."""

    def __init__(self, run_id: str, after: int = 0) -> None:
        self.run_id, self.seen = run_id, after
        self.last: dict[str, object] = {}

    def say(self, message: str) -> None:
        """Print a note."""
        self._print("note", message=message)

    def show(self, run: Run, store: Store) -> None:
        """Print what is new."""
        for event in store.events(self.run_id, self.seen):
            self.seen = event["id"]
            if event["kind"] in {"note", "warning"} and event["message"]:
                self._print(event["kind"], message=event["message"])
        state: dict[str, object] = {
            "stage": str(run.info.get("stage", run.method)),
            "step": run.step,
            "total": run.max_steps,
            "loss": run.loss if run.loss is None or math.isfinite(run.loss) else None,
        }
        if state != self.last:
            self.last = state
            self._print("progress", **state, eta_seconds=eta(run, time.time()))
        status = effective_status(run)
        if not status.is_live:
            self._print("ended", status=status.value, checkpoint=run.checkpoint)

    def _print(self, kind: str, **values: object) -> None:
        line = {"run": self.run_id, "time": round(time.time(), 3), "event": kind, **values}
        print(json.dumps(line, ensure_ascii=True), file=sys.stderr, flush=True)


class ProgressView:
    """Progress bars if stderr is a terminal, else a line per stage and at most one a minute."""

    def __init__(self, run_id: str, after: int = 0) -> None:
        self.run_id, self.seen = run_id, after
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
