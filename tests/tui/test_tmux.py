"""End to end in a real terminal: configure, train, quit, reopen, evaluate, compare."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from kdharness.harness.paths import Paths
from kdharness.harness.store import Store
from kdharness.harness.types import RunStatus

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(shutil.which("tmux") is None, reason="needs tmux"),
]


class Tmux:
    """A terminal on a private tmux server, so that no other session is affected."""

    def __init__(self, home: Path, folder: Path) -> None:
        self.home, self.folder = home, folder
        self.name = f"kdharness-{os.getpid()}"

    def _run(self, *args: str) -> str:
        command = ["tmux", "-L", self.name, *args]
        done = subprocess.run(command, capture_output=True, text=True, stdin=subprocess.DEVNULL)
        return done.stdout

    def open(self, columns: int = 80, rows: int = 24) -> None:
        """Open the app in a new session."""
        program = Path(sys.executable).with_name("kdharness")
        environment = ("env", "-u", "NO_COLOR", "HF_HUB_OFFLINE=1", "OMP_WAIT_POLICY=passive")
        self._run(
            "-f",
            "/dev/null",
            "new-session",
            "-d",
            "-x",
            str(columns),
            "-y",
            str(rows),
            "-c",
            str(self.folder),
            " ".join([*environment, str(program), "--home", str(self.home)]),
        )

    def screen(self) -> str:
        """Return the text on the screen."""
        return self._run("capture-pane", "-p")

    def wait(self, *texts: str, gone: str = "", timeout: float = 30) -> str:
        """Wait until one of the texts is on the screen, and `gone` is not; return the screen."""
        end = time.time() + timeout
        while time.time() < end:
            screen = self.screen()
            if any(text in screen for text in texts) and not (gone and gone in screen):
                return screen
            time.sleep(0.1)
        windows = self._run("list-windows")
        raise AssertionError(f"{texts} not seen in {timeout} s ({windows}):\n{self.screen()}")

    def press(self, *keys: str) -> None:
        """Press keys, by tmux's names."""
        for key in keys:
            self._run("send-keys", key)
            time.sleep(0.15)

    def type(self, text: str) -> None:
        """Type plain text."""
        self._run("send-keys", "-l", text)
        time.sleep(0.2)

    def resize(self, columns: int, rows: int) -> None:
        """Resize the terminal."""
        self._run("resize-window", "-x", str(columns), "-y", str(rows))

    def alive(self) -> bool:
        """Return whether the app is running."""
        return bool(self._run("list-sessions"))

    def set_field(self, name: str, value: str) -> None:
        """Find a field of a form and type its value."""
        self.press("/")
        self.wait("Find a field")
        self.type(name)
        self.press("Enter")
        self.wait(f".{name.split('.')[-1]}", f"  {name}", gone="Find a field")
        self.press("Enter", "C-e", "C-u")
        self.type(value)
        self.press("Enter")
        self.wait(value[:16])

    def close(self) -> None:
        """Kill this tmux server."""
        self._run("kill-server")


@pytest.fixture
def terminal(tmp_path: Path) -> Iterator[Tmux]:
    """A terminal that is closed after the test."""
    tmux = Tmux(tmp_path / "home", tmp_path)
    yield tmux
    tmux.close()


def test_train_and_evaluate_from_an_empty_store(terminal: Tmux, tiny_teacher: Path) -> None:
    paths = Paths(terminal.home)
    terminal.open()
    terminal.wait("run the demo")
    terminal.press("n")
    terminal.wait("New run: kd")
    for name, value in (
        ("teacher.model", str(tiny_teacher)),
        ("keep_layers", "2"),
        ("max_steps", "30"),
        ("eval_every", "10"),
        ("max_length", "96"),
        ("name", "tiny-kd"),
    ):
        terminal.set_field(name, value)
    terminal.wait("s shows the plan")
    terminal.press("s")
    terminal.wait("Start this kd run?")
    terminal.press("y")
    terminal.wait("training", timeout=120)
    # Closing the app does not stop the run; reopening shows it.
    terminal.press("q")
    for _ in range(50):
        if not terminal.alive():
            break
        time.sleep(0.1)
    assert not terminal.alive()
    terminal.open()
    terminal.wait("tiny-kd")
    terminal.wait("✓ finished", timeout=120)
    terminal.press("Enter")
    screen = terminal.wait("general_loss")
    assert "tiny-teacher/2 ← tiny-teacher" in screen or "teacher/2 ← tiny-teacher" in screen
    assert any("\u2800" < char <= "\u28ff" for char in screen), "no curve is drawn"
    terminal.press("v")
    terminal.wait("Evaluate")
    terminal.set_field("limit", "4")
    terminal.press("s")
    terminal.wait("Start this evaluation?")
    terminal.press("y")
    terminal.wait("eval-", timeout=60)
    terminal.wait("✓ finished", timeout=180)
    terminal.press("2")
    screen = terminal.wait("general loss")
    assert "tiny-kd" in screen and "●" in screen
    terminal.resize(120, 40)
    terminal.wait("2 Leaderboard")
    terminal.press("3")
    terminal.wait("other_writer_loss", "general_loss")
    terminal.press("q")
    with Store(paths.store) as store:
        statuses = {run.id: run.status for run in store.runs()}
        assert statuses["tiny-kd"] is RunStatus.FINISHED and len(statuses) == 2
        assert {s["judge"] for s in store.judgment_groups()} == {"exact"}


def test_pause_resume_and_stop_a_real_run(terminal: Tmux, tiny_teacher: Path) -> None:
    terminal.open(120, 40)
    terminal.wait("run the demo")
    terminal.press("n")
    terminal.wait("New run: kd")
    for name, value in (
        ("teacher.model", str(tiny_teacher)),
        ("keep_layers", "2"),
        ("max_steps", "5000"),
        ("epochs", "500"),
        ("max_length", "64"),
        ("name", "long"),
    ):
        terminal.set_field(name, value)
    terminal.press("s")
    terminal.wait("Start this kd run?")
    terminal.press("y")
    terminal.wait("training", timeout=120)
    terminal.press("p")
    terminal.wait("‖ paused", timeout=30)
    terminal.press("p")
    terminal.wait("▶ running", timeout=30)
    terminal.press("X")
    terminal.wait("Stop long?")
    terminal.press("y")
    terminal.wait("■ stopped", timeout=60)
