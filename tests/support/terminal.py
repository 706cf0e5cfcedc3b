"""Commands in a pseudo-terminal, and their output."""

from __future__ import annotations

import fcntl
import os
import pty
import select
import signal
import struct
import sys
import termios
import time
from pathlib import Path


class Terminal:
    """A command in a pseudo-terminal, of 80 × 24 by default."""

    def __init__(self, command: list[str], columns: int = 80, rows: int = 24) -> None:
        self.began = time.perf_counter()
        self.pid, self.fd = pty.fork()
        if self.pid == 0:
            os.environ.update(TERM="xterm-256color", COLORTERM="truecolor")
            os.environ.pop("PYTHONDONTWRITEBYTECODE", None)  # as users have it
            os.execvp(command[0], command)
        fcntl.ioctl(self.fd, termios.TIOCSWINSZ, struct.pack("HHHH", rows, columns, 0, 0))

    def wait_for(self, needle: bytes, timeout: float = 20) -> float:
        """Wait for the bytes to be painted; return the seconds since the start."""
        seen = b""
        while time.perf_counter() - self.began < timeout:
            if select.select([self.fd], [], [], 0.02)[0]:
                seen += os.read(self.fd, 65536)
                if needle in seen:
                    return time.perf_counter() - self.began
        raise TimeoutError(f"{needle!r} was not painted; seen {seen[-300:]!r}")

    def drain(self, seconds: float) -> None:
        """Read and discard output for the given seconds."""
        end = time.perf_counter() + seconds
        while time.perf_counter() < end:
            if select.select([self.fd], [], [], 0.01)[0]:
                os.read(self.fd, 65536)

    def key(self, text: bytes, needle: bytes = b"") -> float:
        """Press a key; return the seconds until the next output, or until one has the needle."""
        while select.select([self.fd], [], [], 0)[0]:
            os.read(self.fd, 65536)
        began = time.perf_counter()
        os.write(self.fd, text)
        seen = b""
        while select.select([self.fd], [], [], 20 if needle else 2)[0]:
            took = time.perf_counter() - began
            seen += os.read(self.fd, 65536)
            if needle in seen:
                return took
        return 2.0

    def close(self) -> None:
        """Terminate the process."""
        os.kill(self.pid, signal.SIGKILL)
        os.waitpid(self.pid, 0)
        os.close(self.fd)


def app_command(home: Path) -> list[str]:
    """Return the command that starts the app as a user would."""
    return [str(Path(sys.executable).with_name("kdharness")), "--home", str(home)]
