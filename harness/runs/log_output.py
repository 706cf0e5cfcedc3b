"""The lines of a worker's log as a terminal would leave them, read as it grows. No widgets."""

from __future__ import annotations

import re
from collections.abc import Iterable
from pathlib import Path

from kdharness.harness.paths import Paths

TAIL_BYTES = 512 * 1024
"""How much of the end of a worker's log is read: bars fill a log with their states."""
NUMBER = r"\d[\d.,]{0,31}(?:[^\W\d]\w{0,15})?"
BAR = re.compile(rf"\d{{1,4}}%\||{NUMBER}(?:/{NUMBER})? ?\[\d{{1,4}}:\d\d")
"""What follows a progress bar's name: its share and drawing, or its count and time.

Each run of characters has an end, and no text can be divided between two of them in many ways:
libraries print lines of any length, and a whole tail is read when a log is opened.
"""
LINE_BYTES = 64 * 1024
"""How much is shown of a line that has not ended."""
NAME_LENGTH = 1000
"""A bar is only looked for in this many leading characters of a line."""
CODES = re.compile(r"\x1b\[[0-9;?]*[ -/]*[@-~]")
"""Colours, and moves of the cursor between the lines of nested bars."""
ENDS = re.compile(r"[\r\n]")
CUT = re.compile(rb"[\r\n]")


def is_bar(line: str) -> bool:
    """Return whether a line is a state of a progress bar."""
    return BAR.search(line, 0, NAME_LENGTH) is not None


class OutputLines:
    """Lines with only the last state of each progress bar, which redraws its line.

    Nested bars take turns: as long as only bars are printed, each has one line.
    """

    def __init__(self, *, cut: bool = False) -> None:
        self._kept: list[str] = []
        self._bars: dict[str, int] = {}
        self._rest = b""
        self._cut = cut

    @property
    def settled(self) -> int:
        """How many lines will not change again: a bar at the end may be redrawn."""
        return min(self._bars.values(), default=len(self._kept))

    def feed(self, data: bytes) -> None:
        """Add what was printed next."""
        if self._cut:
            # What follows the end of a line, or the beginning of a bar's next state, is whole.
            found = CUT.search(data)
            data, self._cut = (data[found.end() :], False) if found else (b"", True)
        data = self._rest + data
        end = max(data.rfind(b"\n"), data.rfind(b"\r")) + 1
        self._rest = data[end:]
        for line in _parts(data[:end]):
            self.add(line)

    def add(self, line: str) -> None:
        """Add one whole line."""
        found = BAR.search(line, 0, NAME_LENGTH)
        if not found:
            self._bars.clear()
        elif (name := line[: found.start()].strip().removesuffix(":")) in self._bars:
            self._kept[self._bars[name]] = line
            return
        else:
            self._bars[name] = len(self._kept)
        self._kept.append(line)

    def take(self) -> list[str]:
        """Return the lines that will not change again, and forget them."""
        end = self.settled
        found, self._kept = self._kept[:end], self._kept[end:]
        self._bars = {name: index - end for name, index in self._bars.items()}
        return found

    def lines(self) -> list[str]:
        """Return all lines, with the end of the one that is being written."""
        shown = OutputLines()
        shown._kept, shown._bars = [*self._kept], {**self._bars}
        for line in _parts(self._rest[-LINE_BYTES:]):
            shown.add(line)
        return shown._kept


def _parts(data: bytes) -> Iterable[str]:
    text = CODES.sub("", data.decode("utf-8", "replace"))
    return (part.rstrip() for part in ENDS.split(text) if part.strip())


def output_lines(data: bytes, *, cut: bool = False) -> list[str]:
    """Return the lines of a log as a terminal would leave them.

    Args:
        data: its bytes.
        cut: they begin within a line, which is left out.
    """
    output = OutputLines(cut=cut)
    output.feed(data)
    return output.lines()


class GrowingLog:
    """The end of a worker's log, of which only what is new is read again."""

    def __init__(self) -> None:
        self.output = OutputLines()
        self._file: tuple[str, int] = ("", 0)
        self._start = self._end = self._changed = 0
        self.lines: list[str] = []

    def read(self, path: Path) -> bool:
        """Read what is new; return whether the lines begin anew."""
        try:
            found = path.stat()
            again = self._begins_anew(path, found.st_ino, found.st_size, found.st_mtime_ns)
            if again:
                self._start = self._end = max(0, found.st_size - TAIL_BYTES)
                self.output = OutputLines(cut=self._start > 0)
            if again or found.st_size > self._end:
                with path.open("rb") as stream:
                    stream.seek(self._end)
                    data = stream.read(found.st_size - self._end)
                self.output.feed(data)
                self._end += len(data)
                self.lines = self.output.lines()
            self._file, self._changed = (str(path), found.st_ino), found.st_mtime_ns
        except OSError:
            again = bool(self.lines)
            self.output, self.lines, self._file = OutputLines(), [], ("", 0)
        return again

    def _begins_anew(self, path: Path, inode: int, size: int, changed: int) -> bool:
        """Return whether the log is not the known one with more at its end, or became too long."""
        other = (str(path), inode) != self._file or size < self._end
        rewritten = size == self._end and changed != self._changed
        return (
            other
            or rewritten
            or size - self._end > TAIL_BYTES
            or (size - self._start > 2 * TAIL_BYTES)
        )


def log_path(paths: Paths, run_id: str) -> Path:
    """Return the path of a worker's log."""
    return paths.run(run_id) / "worker.log"


def log_tail(paths: Paths, run_id: str, lines: int) -> str:
    """Return the last lines of a worker's log, with one line for each progress bar."""
    path = log_path(paths, run_id)
    if not path.exists():
        return ""
    with path.open("rb") as stream:
        start = stream.seek(max(0, stream.seek(0, 2) - TAIL_BYTES))
        return "\n".join(output_lines(stream.read(), cut=start > 0)[-lines:])
