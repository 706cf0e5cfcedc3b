"""Curves and scores in trackers too: TensorBoard, Weights & Biases, MLflow, Trackio.

The store stays the truth. Each tracker gets a copy through transformers' own callback, from a
thread of its own: what it refuses is noted once and sent again until the run ends, one that cannot
begin is left out, one that is slow misses points, and none can stop or delay a run.
"""

from __future__ import annotations

import copy
import os
import queue
import secrets
import sys
import threading
import time
from collections import deque
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from transformers import TrainerCallback, TrainerControl, TrainerState, TrainingArguments
from transformers.integrations.integration_utils import INTEGRATION_TO_CALLBACK

from kdharness.harness.protocols import Reporter
from kdharness.harness.util.redact import redact

POINTS = 10_000
"""Points that may wait for a slow tracker; more are dropped."""
RETRY_SECONDS = 30.0
"""How long a tracker that failed is left alone: a server that is restarted costs no points."""
TRIES = 5
"""How often a point is sent before later ones are tried."""
PROBES = 5
"""Points that are tried: if a tracker takes one of them, it is there and refuses those before."""
PATIENCE = 20.0
"""Seconds that the end of a run waits for all trackers together."""


Point = tuple[int, dict[str, float]]


class _NoSettings(TrainingArguments):
    """Arguments of a run without training: their defaults were used for nothing."""

    def to_dict(self) -> dict[str, Any]:
        """Return no settings."""
        return {}


class Tracker(threading.Thread):
    """One tracker, fed by `log` from any thread, written to in this one."""

    def __init__(self, name: str, args: TrainingArguments, model: object) -> None:
        """Begin to track a run.

        Args:
            name: of the tracker.
            args: the training's; its `run_name` is the run's.
            model: whose config is recorded; None for scores alone.
        """
        super().__init__(name=f"tracker-{name}", daemon=True)
        self.tracker, self.args, self.model = name, copy.copy(args), model
        self.trouble: queue.SimpleQueue[str] = queue.SimpleQueue()
        self.points: queue.Queue[Point | None] = queue.Queue(POINTS)
        self.dropped = 0
        self.closing = threading.Event()
        self._noted = False
        self.start()

    def log(self, step: int, values: Mapping[str, float]) -> None:
        """Record values of a step; never waits."""
        try:
            self.points.put_nowait((step, dict(values)))
        except queue.Full:
            self.dropped += 1

    def troubles(self) -> Iterator[str]:
        """Yield what went wrong since the last call, for the run's log."""
        while not self.trouble.empty():
            yield f"track: {self.tracker} {self.trouble.get()}"

    def close(self, seconds: float) -> None:
        """End the tracker's run; leave it behind if that takes longer."""
        self.closing.set()
        try:
            self.points.put(None, timeout=seconds)
        except queue.Full:
            self.dropped += 1
        self.join(seconds)
        if self.is_alive():
            self.trouble.put(f"did not finish within {seconds:.0f} s and is left behind")
        elif self.dropped:
            self.trouble.put(f"was too slow: {self.dropped} points are not there")

    def run(self) -> None:
        """Write to the tracker until the run ends or the tracker fails."""
        try:
            self._write()
        except BaseException as error:  # a client may raise anything, SystemExit included
            self.trouble.put(f"failed and is left out: {_reason(error)}")
            self._drain()

    def _write(self) -> None:
        callback: TrainerCallback = INTEGRATION_TO_CALLBACK[self.tracker]()
        control = TrainerControl()
        callback.on_train_begin(self.args, _state(0), control, model=self.model)
        if hasattr(callback, "_async_log"):
            # MLflow would send later, and only log that the server refused. This thread may wait.
            callback._async_log = False
        lost, tries, taken, waiting = 0, 0, False, deque[Point]()
        while (point := self.points.get()) is not None:
            waiting.append(point)
            while waiting:
                tries += 1
                probes = PROBES if tries >= TRIES or self.closing.is_set() else 1
                sent = self._first_sent(callback, waiting, probes)
                if sent is not None:
                    tries = 0
                    taken, lost = True, lost + sent  # it is there, and refuses those before
                    for _ in range(sent + 1):
                        waiting.popleft()
                elif self.closing.is_set() and taken and len(waiting) < PROBES:
                    lost += len(waiting)
                    waiting.clear()
                elif self.closing.is_set():
                    lost += len(waiting) + self._drain()
                    self.trouble.put(f"did not come back: its last {lost} points are not there")
                    return
                else:
                    self.closing.wait(RETRY_SECONDS)
        if lost:
            self.trouble.put(f"refused {lost} of the points: they are not there")
        callback.on_train_end(self.args, _state(0), control, model=self.model)
        if self.tracker == "wandb" and (client := sys.modules.get("wandb")):
            # Its callback leaves the run open, and what is tracked next would be added to it; its
            # session would go on with this run's id and folder.
            client.finish()
            client.teardown()

    def _first_sent(
        self, callback: TrainerCallback, waiting: deque[Point], probes: int
    ) -> int | None:
        """Send the first of the next points that the tracker takes; return which."""
        for number in range(probes):
            if number == len(waiting):
                try:
                    point = self.points.get_nowait()
                except queue.Empty:
                    return None
                if point is None:
                    self.points.put(None)  # the end of the run, for the loop
                    return None
                waiting.append(point)
            if self._sent(callback, *waiting[number]):
                return number
        return None

    def _drain(self) -> int:
        """Take the points until the end of the run, so that nobody waits for room; count them."""
        count = 0
        while self.points.get() is not None:
            count += 1
        return count

    def _sent(self, callback: TrainerCallback, step: int, values: dict[str, float]) -> bool:
        """Send a point; return whether the tracker took it."""
        try:
            callback.on_log(
                self.args, _state(step), TrainerControl(), model=self.model, logs=dict(values)
            )
        except Exception as error:  # a client may raise anything
            if not self._noted:
                self._noted = True
                self.trouble.put(f"failed, and is tried again: {_reason(error)}")
            return False
        return True


def _reason(error: BaseException) -> str:
    first = (str(error).strip() or type(error).__name__).splitlines()[0]
    return redact(first, shapes=True)


def _state(step: int) -> TrainerState:
    return TrainerState(
        global_step=step, is_local_process_zero=True, is_world_process_zero=True, max_steps=step
    )


class Tracked:
    """A reporter that sends curve points to trackers as well."""

    def __init__(self, reporter: Reporter, trackers: Sequence[Tracker]) -> None:
        """Report to `reporter`; the trackers get what becomes a curve."""
        self.reporter, self.trackers = reporter, trackers

    def stage(self, name: str, total: int) -> None:
        """Begin a stage of `total` units."""
        self.reporter.stage(name, total)

    def advance(self, done: int, **values: float) -> None:
        """Report finished units, and their values to every tracker."""
        self.reporter.advance(done, **values)
        for tracker in self.trackers if values else ():
            tracker.log(done, values)
            self._tell(tracker)

    def say(self, message: str, *, kind: str = "note", **info: Any) -> None:
        """Log a message."""
        self.reporter.say(message, kind=kind, **info)

    def check(self) -> None:
        """Wait while paused; raise `Interrupted` if asked to stop."""
        self.reporter.check()

    def close(self) -> None:
        """End all trackers, within `PATIENCE` seconds together."""
        end = time.monotonic() + PATIENCE
        for tracker in self.trackers:
            tracker.close(max(0.1, end - time.monotonic()))
            self._tell(tracker)

    def _tell(self, tracker: Tracker) -> None:
        for text in tracker.troubles():
            self.reporter.say(text, kind="warning")


def tracked(
    reporter: Reporter,
    names: Sequence[str],
    run: str,
    folder: Path,
    args: TrainingArguments,
    model: object,
) -> Tracked:
    """Start the trackers of a run; return a reporter that feeds them.

    Args:
        reporter: the run's.
        names: of the trackers.
        run: the run's name.
        folder: the run's folder: TensorBoard's files are in its `tensorboard/`.
        args: the training's.
        model: the student, whose config trackers record.
    """
    args = copy.copy(args)
    args.run_name = run
    folder.mkdir(parents=True, exist_ok=True)  # wandb falls back to a temporary one otherwise
    # Of several runs in one folder TensorBoard makes one.
    own = os.environ.get("TENSORBOARD_LOGGING_DIR")
    board = Path(own) / run.replace("/", "-") if own else folder / "tensorboard"
    os.environ["TENSORBOARD_LOGGING_DIR"] = str(board)
    os.environ.setdefault("WANDB_DIR", str(folder))
    for project in ("WANDB_PROJECT", "TRACKIO_PROJECT", "MLFLOW_EXPERIMENT_NAME"):
        os.environ.setdefault(project, "kdharness")
    args.project = os.environ["TRACKIO_PROJECT"]  # Trackio's callback reads no variable
    # A resumed run goes on in the tracker's run.
    os.environ.setdefault("WANDB_RUN_ID", _own_id(folder))
    os.environ.setdefault("WANDB_RESUME", "allow")
    if os.environ.get("WANDB_LOG_MODEL", "false").lower() not in ("", "false", "0"):
        os.environ["WANDB_LOG_MODEL"] = "false"
        reporter.say("track: WANDB_LOG_MODEL is not followed: weights stay here", kind="warning")
    return Tracked(reporter, [Tracker(name, args, model) for name in names])


def _own_id(folder: Path) -> str:
    """Return a run's id for trackers: random, since the same name is another run elsewhere."""
    note = folder / "tracked-as"
    if not note.exists():
        note.write_text(secrets.token_hex(8), "utf-8")
    return note.read_text("utf-8").strip()


def track_scores(
    names: Sequence[str],
    scores: Mapping[str, Mapping[str, float]],
    folder: Path,
    reporter: Reporter,
) -> None:
    """Send final scores to trackers: checkpoint -> name of a score -> value.

    Each checkpoint is a run of the tracker's own, so that scores of several stand side by side.
    """
    args = _NoSettings(output_dir=str(folder), report_to=[], use_cpu=True)
    own = ("TENSORBOARD_LOGGING_DIR", "WANDB_RUN_ID", "WANDB_DIR")
    chosen = {name: os.environ.get(name) for name in own}
    for checkpoint, values in scores.items():
        place = folder / "scores" / checkpoint.replace("/", "-")
        for name, value in chosen.items():
            os.environ.pop(name, None)
            if value:
                os.environ[name] = value
        sent = tracked(reporter, names, checkpoint, place, args, None)
        for tracker in sent.trackers:
            tracker.log(0, values)
        sent.close()
