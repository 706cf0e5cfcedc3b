"""Run the user's command when a run has ended: `notify:` in settings.yaml.

A process of its own runs it, so that neither the worker, which ends then and gives back its GPU,
nor the app waits for it: `python -m kdharness.harness.runs.notify HOME`, with what happened in
the environment.
"""

from __future__ import annotations

import os
import signal
import sqlite3
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path

from kdharness.harness.config.alerts import Rule, parse_rule
from kdharness.harness.config.notifying import PLACEHOLDERS, STATES
from kdharness.harness.config.settings import load_settings
from kdharness.harness.errors import KDHarnessError, did_you_mean
from kdharness.harness.paths import Paths, find_paths
from kdharness.harness.runs.alerts import CurveWatch
from kdharness.harness.runs.status import end_message, is_part
from kdharness.harness.store import Store
from kdharness.harness.types import Method, Run, RunStatus
from kdharness.harness.util.detached import start_detached
from kdharness.harness.util.process import OURS
from kdharness.harness.util.redact import redact
from kdharness.harness.util.text import safe_text

ENDS = ("started", "ended", "interrupted")
SECONDS = 60.0
"""How long the command may take before it is killed."""
POLL_SECONDS = 0.1
MOST_BYTES = 2**20
"""Output of which nothing is kept: a command that never stops writing must not fill the disk."""
TAIL_BYTES = 4096


def tell_end(paths: Paths, store: Store, run: Run, status: RunStatus, error: str = "") -> None:
    """Tell the user that a run has ended. Never raises: the run's outcome is stored already."""
    if is_part(run) and status in (RunStatus.FINISHED, RunStatus.STOPPED):
        return
    tell(paths, store, run, status.value, end_message(run, status.value, error))


def tell_interrupted(paths: Paths, store: Store, run: Run) -> None:
    """Tell that a run's process is gone, once: its worker could not."""
    events = store.events_of(run.id, ENDS)
    if not events or events[-1]["kind"] != "interrupted":
        store.add_event(run.id, "interrupted", "its process is gone")
        tell(paths, store, run, "interrupted", end_message(run, "interrupted"))


def tell_experiment(paths: Paths, name: str, status: RunStatus, error: str = "") -> None:
    """Tell that an experiment which is no run of its own has ended. Never raises."""
    experiment = Run(
        id=name,
        method=Method.SWEEP.value,
        status=status,
        config={},
        config_hash="",
        folder=str(paths.home),
        created=time.time(),
    )
    try:
        with Store(paths.store) as store:
            tell_end(paths, store, experiment, status, redact(error, shapes=True))
    except (KDHarnessError, OSError, sqlite3.Error) as problem:
        print(f"notify: {problem}", file=sys.stderr)


def tell(paths: Paths, store: Store, run: Run, state: str, message: str) -> None:
    """Start the user's command, if there is one for this state."""
    try:
        settings = load_settings(paths).notify
        if state not in settings.when or not (settings.command or settings.shell):
            return
        values = {
            "run": run.id,
            "state": state,
            "message": message,
            "method": run.method,
            "folder": run.folder,
            "home": str(paths.home),
        }
        environment = {f"KDHARNESS_{name.upper()}": value for name, value in values.items()}
        command = [sys.executable, "-m", "kdharness.harness.runs.notify", str(paths.home)]
        start_detached(command, variables=environment)
    except (KDHarnessError, OSError, ValueError) as error:
        _note(store, run.id, str(error))


def _note(store: Store, run_id: str, problem: str) -> None:
    """Record in the run's log why no notification was sent; print it if there is no such run."""
    try:
        if store.run(run_id) is not None:
            store.add_event(run_id, "warning", redact(f"notify: {problem}", shapes=True))
        else:
            print(f"notify: {redact(problem, shapes=True)}", file=sys.stderr)
    except (KDHarnessError, sqlite3.Error):
        print(f"notify: {redact(problem, shapes=True)}", file=sys.stderr)


def user_environment(environ: Mapping[str, str]) -> dict[str, str]:
    """Return the environment without what our own processes need: it would change theirs."""
    return {name: value for name, value in environ.items() if name not in OURS}


def run_command(argv: Sequence[str], folder: Path, timeout: float = SECONDS) -> str:
    """Run a command in a folder; return what went wrong.

    One that takes longer than `timeout` seconds is killed, with the processes it started. Those
    that it leaves in the background when it ends are not waited for. Its output is a file: with a
    pipe its end would be theirs.
    """
    with _output_file() as output:
        try:
            with output.open("ab") as stream:
                process = subprocess.Popen(
                    argv,
                    cwd=folder,
                    stdin=subprocess.DEVNULL,
                    stdout=stream,
                    stderr=subprocess.STDOUT,
                    env=user_environment(os.environ),
                    start_new_session=True,
                )
        except (OSError, ValueError) as error:
            return f"{argv[0]} cannot be started: {getattr(error, 'strerror', None) or error}"
        code = _wait(process, output, timeout)
        if code == 0:
            return ""
        if code is None:
            return f"{argv[0]} was killed: it took longer than {timeout:.0f} s"
        return f"{argv[0]} ended with code {code}{_last_line(output)}"


@contextmanager
def _output_file() -> Iterator[Path]:
    """Yield a file for output, which is removed; a full disk must not prevent a notification.

    A program in the background goes on writing to it unseen.
    """
    try:
        handle, name = tempfile.mkstemp(prefix="kdharness-notify-")
    except OSError:
        yield Path(os.devnull)
        return
    os.close(handle)
    try:
        yield Path(name)
    finally:
        with suppress(OSError):
            os.unlink(name)


def _wait(process: subprocess.Popen[bytes], output: Path, timeout: float) -> int | None:
    """Wait for a process and return its code; None if it was killed after `timeout` seconds."""
    until = time.monotonic() + timeout
    while (left := until - time.monotonic()) > 0:
        try:
            return process.wait(min(left, POLL_SECONDS))
        except subprocess.TimeoutExpired:
            _shorten(output)
    if hasattr(os, "killpg"):
        os.killpg(process.pid, signal.SIGKILL)
    process.kill()
    process.wait()
    return None


def _shorten(output: Path) -> None:
    """Empty a file that has become too long; what is appended to it follows."""
    if output.stat().st_size > MOST_BYTES:
        os.truncate(output, 0)


def _last_line(output: Path) -> str:
    """Return the last line of an output, after a colon; empty if there is none."""
    with output.open("rb") as stream:
        stream.seek(max(0, output.stat().st_size - TAIL_BYTES))
        last = stream.read().decode("utf-8", "replace").strip().splitlines()[-1:]
    return f": {safe_text(last[0], 200)}" if last else ""


# ---------------------------------------------------------------- alerts


class Alerts:
    """The user's rules on curves, watched for one run; an alert goes to its log and the command."""

    def __init__(self, paths: Paths, store: Store, run: Run) -> None:
        self.paths, self.store, self.run = paths, store, run
        rules: list[Rule] = []
        try:
            rules = [parse_rule(text) for text in load_settings(paths).alerts]
        except (KDHarnessError, OSError) as error:
            _note(store, run.id, f"settings.yaml cannot be read, so no alerts: {error}")
        events = store.events_of(run.id, ("alert",)) if rules else []
        told = [str(event["info"].get("rule")) for event in events]
        self.watch = CurveWatch(rules, told)
        for curve in {rule.curve for rule in rules}:
            self.watch.recall(curve, [value for _, value in store.curve(run.id, curve)])

    def see(self, values: Mapping[str, float]) -> list[tuple[str, str]]:
        """Return the rules that hold now and what they say, and tell the user; once in a run."""
        said = self.watch.see(values) if self.watch.rules else []
        for _, message in said:
            tell(self.paths, self.store, self.run, "alert", f"{self.run.id}: {message}")
        return said

    def without_a_curve(self) -> list[str]:
        """Return a line on each rule whose curve a training did not have."""
        curves = self.watch.curves
        return [
            f"the alert {rule.text!r} found no curve {rule.curve!r}"
            f"{did_you_mean(rule.curve, curves)}"
            for rule in (self.watch.unseen() if curves else ())
        ]


def main(home: str) -> None:
    """Run the command that the settings name, on what the environment says has happened."""
    paths = find_paths(home)
    values = {name: os.environ.get(f"KDHARNESS_{name.upper()}", "") for name in PLACEHOLDERS}
    if values["state"] not in STATES:
        sys.exit(f"not a state: {values['state']!r}")
    problem = run_command(load_settings(paths).notify.argv(values), paths.home)
    if problem:
        with Store(paths.store) as store:
            _note(store, values["run"], problem)


if __name__ == "__main__":
    main(sys.argv[1])
