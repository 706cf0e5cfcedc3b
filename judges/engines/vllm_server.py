"""A `vllm serve` process: started on a port of this machine, waited for, and stopped.

It runs under a keeper (keeper.py), which stops it when this process ends in any way, and which
holds the lock that keeps another evaluation from starting the same model a second time.
"""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import secrets
import socket
import stat
import subprocess
import sys
import tempfile
import time
import urllib.request
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from kdharness.harness.errors import JudgeError
from kdharness.harness.util.notices import notify
from kdharness.harness.util.redact import KEY_NAMES, redact

KEEPER = Path(__file__).with_name("keeper.py")
HOST = "127.0.0.1"
SHARED = Path("/tmp")
"""Where locks are: on this machine, unlike a home, which may be on a network file system."""
LOOK = 0.25
"""Seconds between looks whether the server is ready."""
GRACE = 10.0
"""Seconds between asking the server to end and killing it."""
LOG_LINES = 12
PORTS_TRIED = 3
TAKEN = ("address already in use", "errno 98", "errno 48")
ADVICE = (
    (
        ("out of memory", "no available memory for the cache blocks", "gpu_memory_utilization"),
        "is the GPU free? Lower gpu_memory_utilization or max_model_len under `vllm:` in",
    ),
    (("kv cache", "max_model_len", "max seq len"), "lower max_model_len under `vllm:` in"),
)


@dataclass(frozen=True)
class Launch:
    """What is started.

    Attributes:
        program: the program and its arguments, without host, port and name.
        served: the name under which the model is asked.
        log: where its output goes.
        lock: held while it runs.
        timeout: seconds until a start has failed.
        environment: variables on top of this process's own.
    """

    program: tuple[str, ...]
    served: str
    log: Path
    lock: Path
    timeout: float
    settings: Path
    environment: Mapping[str, str] = field(default_factory=dict)


class VLLMServer:
    """One running server; `close` stops it."""

    def __init__(self, launch: Launch) -> None:
        """Create it; nothing is started before `start`."""
        self.launch = launch
        self.key = ""
        self.port = 0
        self.context: int | None = None
        self._keeper: subprocess.Popen[bytes] | None = None
        self._lifeline = -1

    @property
    def url(self) -> str:
        """The base URL of its API."""
        return f"http://{HOST}:{self.port}/v1"

    @property
    def is_running(self) -> bool:
        """Whether it was started and has not ended."""
        return self._keeper is not None and self._keeper.poll() is None

    def has_ended(self, seconds: float) -> bool:
        """Return whether it ends within a time: its keeper ends a moment after it."""
        with contextlib.suppress(subprocess.TimeoutExpired):
            if self._keeper is not None:
                self._keeper.wait(seconds)
        return not self.is_running

    def start(self, idle: Callable[[], bool]) -> bool:
        """Start it and wait until it answers.

        Args:
            idle: called while waiting; True ends the start.

        Returns:
            False if the start was ended.

        Raises:
            JudgeError: it ended or did not answer in time, with the end of its log.
        """
        lock = self._locked(idle)
        if lock is None:
            return False
        notify(f"starting vllm serve for vllm:{self.launch.served}; log: {self.launch.log}")
        try:
            for attempt in range(PORTS_TRIED):
                self._launch(lock)
                try:
                    return self._wait(idle)
                except JudgeError:
                    self.close()
                    # Another program may have taken the port in between.
                    if attempt == PORTS_TRIED - 1 or not _mentions(self._log_text(), TAKEN):
                        raise
                except BaseException:
                    self.close()
                    raise
        finally:
            os.close(lock)
        return False

    def _locked(self, idle: Callable[[], bool]) -> int | None:
        """Wait for the lock; the keeper holds it from then on."""
        make_private(self.launch.lock.parent)
        said = False
        while (lock := _try_lock(self.launch.lock)) is None:
            if not said:
                notify(
                    f"vllm:{self.launch.served} is already being served for another evaluation; "
                    "waiting for it to finish"
                )
                said = True
            if idle():
                return None
            time.sleep(LOOK)
        return lock

    def _launch(self, lock: int) -> None:
        self.key = secrets.token_urlsafe(32)
        self.port = _free_port()
        # The key is in the environment alone: command lines can be read by other users.
        hidden = {*KEY_NAMES, "VLLM_API_KEY"}
        kept = {name: value for name, value in os.environ.items() if name not in hidden}
        environment = {**kept, "VLLM_API_KEY": self.key, **self.launch.environment}
        command = [
            *self.launch.program,
            "--host",
            HOST,
            "--port",
            str(self.port),
            "--served-model-name",
            self.launch.served,
        ]
        self.launch.log.parent.mkdir(parents=True, exist_ok=True)
        reading, writing = os.pipe()
        try:
            with self.launch.log.open("wb") as log:
                self._keeper = subprocess.Popen(
                    [sys.executable, "-I", str(KEEPER), str(reading), str(GRACE), *command],
                    stdin=subprocess.DEVNULL,
                    stdout=log,
                    stderr=subprocess.STDOUT,
                    env=environment,
                    pass_fds=[reading, lock],
                    start_new_session=True,
                )
        except BaseException:
            os.close(writing)
            raise
        finally:
            os.close(reading)
        self._lifeline = writing

    def _wait(self, idle: Callable[[], bool]) -> bool:
        """Wait until the server lists its model."""
        deadline = time.monotonic() + self.launch.timeout
        while not self._is_ready():
            if not self.is_running:
                raise self.failed("ended while starting")
            if time.monotonic() > deadline:
                raise self.failed(f"was not ready after {self.launch.timeout:g} s")
            if idle():
                self.close()
                return False
            time.sleep(min(LOOK, max(0.0, deadline - time.monotonic())))
        return True

    def _is_ready(self) -> bool:
        """Return whether it lists its model; only our server knows our key."""
        request = urllib.request.Request(
            f"{self.url}/models", headers={"Authorization": f"Bearer {self.key}"}
        )
        direct = urllib.request.build_opener(urllib.request.ProxyHandler({}))
        try:
            with direct.open(request, timeout=2) as answer:
                entries = json.loads(answer.read(1 << 20))["data"]
            mine = [entry for entry in entries if entry["id"] == self.launch.served]
        except (OSError, ValueError, KeyError, TypeError):
            return False
        length = mine[0].get("max_model_len") if mine else None
        self.context = length if isinstance(length, int) else None
        return bool(mine)

    def failed(self, what: str) -> JudgeError:
        """Return the error of a server that ended, with the end of its log."""
        code = None if self._keeper is None else self._keeper.poll()
        ended = "" if code is None else f" (exit code {code})"
        text = self._log_text()
        lines = [line.rstrip() for line in text.splitlines() if line.strip()][-LOG_LINES:]
        shown = "".join(f"\n    {redact(line, shapes=True)[:300]}" for line in lines)
        advice = next((words for signs, words in ADVICE if _mentions(text, signs)), "")
        return JudgeError(
            f"vllm serve {what}{ended}; the end of its log:{shown or ' nothing'}",
            where=str(self.launch.log),
            hint=f"{advice} {self.launch.settings}" if advice else "",
        )

    def _log_text(self) -> str:
        """Return the last 64 KiB of the log."""
        try:
            with self.launch.log.open("rb") as stream:
                stream.seek(max(0, self.launch.log.stat().st_size - (1 << 16)))
                return stream.read().decode("utf-8", "replace")
        except OSError:
            return ""

    def close(self) -> None:
        """Stop it with all of its processes, and wait until they have ended."""
        if self._lifeline >= 0:
            os.close(self._lifeline)
            self._lifeline = -1
        if self._keeper is not None:
            try:
                self._keeper.wait(GRACE + 10)
            except subprocess.TimeoutExpired:
                # The kernel ends the server when its keeper is gone.
                self._keeper.kill()
                with contextlib.suppress(subprocess.TimeoutExpired):
                    self._keeper.wait(GRACE)


def lock_folder() -> Path:
    """Return this user's folder for locks on this machine, which all of the user's homes share."""
    # Not TMPDIR or XDG_RUNTIME_DIR, which differ between a user's sessions and batch jobs.
    root = SHARED if os.access(SHARED, os.W_OK | os.X_OK) else Path(tempfile.gettempdir())
    return root / f"kdharness-{os.getuid()}"


def make_private(folder: Path) -> None:
    """Create a folder of this user alone.

    Raises:
        JudgeError: something else has its name, such as another user's folder or a link.
    """
    try:
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        found = folder.lstat()
    except OSError as error:
        problem = f"cannot be created: {error.strerror}"
    else:
        mine = stat.S_ISDIR(found.st_mode) and found.st_uid == os.getuid()
        if mine and not found.st_mode & 0o022:
            return
        problem = "is not a folder that you alone can write to"
    raise JudgeError(
        f"the folder for locks {problem}",
        where=str(folder),
        hint="remove it or correct its owner and permissions (chmod 700)",
    )


def _try_lock(path: Path) -> int | None:
    """Return a descriptor that holds the lock; None while another process holds it."""
    flags = os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW
    lock = os.open(path, flags, 0o600)
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        # A clean-up of temporary files may have removed the file: then its lock excludes nobody.
        if os.path.samestat(os.fstat(lock), path.stat()):
            return lock
    except (BlockingIOError, FileNotFoundError):
        pass
    except BaseException:
        os.close(lock)
        raise
    os.close(lock)
    return None


def _free_port() -> int:
    with socket.socket() as free:
        free.bind((HOST, 0))
        return int(free.getsockname()[1])


def _mentions(text: str, signs: Sequence[str]) -> bool:
    lower = text.lower()
    return any(sign in lower for sign in signs)
