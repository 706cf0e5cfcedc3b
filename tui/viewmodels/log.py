"""A run's events and the output of its libraries, as one timeline. No widgets."""

from __future__ import annotations

import re
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from kdharness.harness.paths import Paths
from kdharness.harness.runs.launch import log_path
from kdharness.harness.store import Store
from kdharness.tui.viewmodels.rows import Line, text_lines

TAIL_BYTES = 512 * 1024
"""How much of the end of a worker's log is read: bars fill a log with their states."""
LEVELS = ("log", "all", "events", "problems")
"""What is shown: without lines of metrics, everything, events only, warnings and errors only."""
SHOWN: dict[str, tuple[str, ...]] = {
    "log": ("event", "output", "warning", "error"),
    "all": ("event", "output", "warning", "error", "metrics"),
    "events": ("event", "warning", "error"),
    "problems": ("warning", "error"),
}
NUMBER = r"\d[\d.,]{0,31}(?:[^\W\d]\w{0,15})?"
BAR = re.compile(rf"\d{{1,4}}%\||{NUMBER}(?:/{NUMBER})? ?\[\d{{1,4}}:\d\d")
"""What follows a progress bar's name: its share and drawing, or its count and time.

Each run of characters has an end, and no text can be divided between two of them in many ways:
libraries print lines of any length, and all of a log is read each time that it has grown.
"""
NAME_LENGTH = 1000
"""A bar begins within so many characters of its line."""
CODES = re.compile(r"\x1b\[[0-9;?]*[ -/]*[@-~]")
"""Colours, and moves of the cursor between the lines of nested bars."""
PRINTED = re.compile(r"(\d\d):(\d\d):(\d\d) ([\w-]+): ?(.*)")
METRICS = re.compile(r"\{'[\w/]+': '?-?[\d.naife+-]+'?(?:, .*)?\}")
WARNS = re.compile(r"\bwarn(?:ing)?\b|Warning:|\bdeprecated\b", re.IGNORECASE)
FAILS = re.compile(r"\b(?:ERROR|CRITICAL|FATAL)\b|^[\w.]*(?:Error|Exception)\b|^error:")
TRACE = "Traceback (most recent call last):"
AHEAD = 500
"""Events that are not printed lie between two that are; after the first, few do."""
CLOCK_SECONDS = 2
"""An event is printed just before it is stored."""
ROLES = {"event": "", "output": "dim", "metrics": "dim", "warning": "warn", "error": "bad"}


@dataclass(frozen=True)
class LogLine:
    """One line and what it is: event, output, metrics, warning or error."""

    kind: str
    parts: Line

    @property
    def text(self) -> str:
        """The line as text."""
        return "".join(text for text, _ in self.parts)


def timeline(events: Sequence[Mapping[str, object]], output: Sequence[str]) -> list[LogLine]:
    """Return events in their order, with the output of libraries where it was printed.

    A worker prints most of its events: output between two of them was printed between them.

    Args:
        events: `time`, `kind` and `message`, oldest first.
        output: the lines of the worker's log.
    """
    lines: list[LogLine] = []
    waiting: list[str] = []
    at, skip = 0, 0
    for line in output:
        if skip:
            skip -= 1
            continue
        printed = PRINTED.match(line)
        if printed is None:
            waiting.append(line)
            continue
        index = _stored(events, at, printed)
        if index is None:
            lines += _output(waiting)
            lines += _event(line[:8], printed[4], printed[5])
        else:
            for event in events[at:index]:
                lines += _event_lines(event)
            lines += _output(waiting)
            lines += _event_lines(events[index])
            rest = str(events[index]["message"]).split("\n")[1:]
            at, skip = index + 1, sum(bool(line.strip()) for line in rest)
        waiting = []
    lines += _output(waiting)
    for event in events[at:]:
        lines += _event_lines(event)
    return lines


def _stored(events: Sequence[Mapping[str, object]], at: int, printed: re.Match[str]) -> int | None:
    """Return the index of the event that was printed, from `at` on."""
    hours, minutes, seconds = (int(printed[n]) for n in (1, 2, 3))
    when = hours * 3600 + minutes * 60 + seconds
    for index in range(at, len(events) if at == 0 else min(at + AHEAD, len(events))):
        event = events[index]
        if event["kind"] != printed[4]:
            continue
        if str(event["message"]).partition("\n")[0] == printed[5]:
            return index
        # What a log shows may be redacted: its time tells then.
        own = time.localtime(float(str(event["time"])))
        gap = abs(own.tm_hour * 3600 + own.tm_min * 60 + own.tm_sec - when)
        if min(gap, 86_400 - gap) <= CLOCK_SECONDS:
            return index
    return None


def _event_lines(event: Mapping[str, object]) -> list[LogLine]:
    when = time.strftime("%H:%M:%S", time.localtime(float(str(event["time"]))))
    return _event(when, str(event["kind"]), str(event["message"]))


def _event(when: str, kind: str, message: str) -> list[LogLine]:
    """Return the lines of an event; the time stands on its first."""
    level, lines = level_of(kind, message), []
    head: Line = [(f"{when} ", "dim"), (f"{kind:<9} ", ROLES[level] or "accent")]
    for row in text_lines(message):
        lines.append(LogLine(level, [*head, (row[0][0], ROLES[level])]))
        head = [(" " * 19, "")]
    return lines


def level_of(kind: str, message: str) -> str:
    """Return the level of an event: error, warning or event."""
    if kind in ("error", "failed") or (kind == "ended" and message not in ("finished", "stopped")):
        return "error"
    return "warning" if kind == "warning" else "event"


def _output(lines: Iterable[str]) -> Iterator[LogLine]:
    """Yield lines of libraries with their levels; a traceback is an error as a whole."""
    tracing = False
    for line in lines:
        if line.strip().startswith(TRACE):
            tracing = True
            kind = "error"
        elif tracing:
            kind = "error"
            tracing = line.startswith((" ", "\t")) or not line.strip()
        elif METRICS.fullmatch(line.strip()):
            kind = "metrics"
        else:
            kind = _level(line)
        for row in text_lines(line, ROLES[kind]):
            yield LogLine(kind, row)


def _level(line: str) -> str:
    if BAR.search(line, 0, NAME_LENGTH):
        return "output"
    return "error" if FAILS.search(line) else "warning" if WARNS.search(line) else "output"


def without_updates(lines: Sequence[str]) -> list[str]:
    """Return lines with only the last state of each progress bar, which redraws its line.

    Nested bars take turns: as long as only bars are printed, each has one line.
    """
    kept: list[str] = []
    bars: dict[str, int] = {}
    for line in lines:
        found = BAR.search(line, 0, NAME_LENGTH)
        if not found:
            bars = {}
        elif (name := line[: found.start()].strip().removesuffix(":")) in bars:
            kept[bars[name]] = line
            continue
        else:
            bars[name] = len(kept)
        kept.append(line)
    return kept


def output_lines(data: bytes, *, cut: bool = False) -> list[str]:
    """Return the lines of a log as a terminal would leave them.

    Args:
        data: its bytes.
        cut: they begin within a line, which is left out.
    """
    text = CODES.sub("", data.decode("utf-8", "replace")).replace("\r\n", "\n")
    lines = text.split("\n")[1 if cut else 0 :]
    parts = [part for line in lines for part in line.split("\r")]
    return without_updates([part.rstrip() for part in parts if part.strip()])


class LogFile:
    """One run's log: its events, and the end of its worker's, read again only when it changed."""

    def __init__(self) -> None:
        self._state: tuple[str, int, int] = ("", 0, 0)
        self._lines: list[str] = []
        self._events: list[dict[str, Any]] = []

    def lines(self, path: Path) -> list[str]:
        """Return its lines; none if there is no log."""
        try:
            found = path.stat()
            state = (str(path), found.st_size, found.st_mtime_ns)
            if state != self._state:
                with path.open("rb") as stream:
                    start = max(0, found.st_size - TAIL_BYTES)
                    stream.seek(start)
                    self._lines = output_lines(stream.read(), cut=start > 0)
                self._state = state
        except OSError:
            return []
        return self._lines

    def timeline(self, store: Store, paths: Paths, run: str) -> list[LogLine]:
        """Return a run's events and the output around them; only new events are read."""
        while fresh := store.events(run, self._events[-1]["id"] if self._events else 0):
            self._events += fresh
        return timeline(self._events, self.lines(log_path(paths, run)))


# ---------------------------------------------------------------- searching


def matches(lines: Sequence[LogLine], words: str) -> list[int]:
    """Return the lines that contain a text; capitals count only if it has some."""
    if not words:
        return []
    exact = words != words.casefold()
    return [
        index
        for index, line in enumerate(lines)
        if words in (line.text if exact else line.text.casefold())
    ]


def found_parts(line: Line, words: str, role: str) -> Line:
    """Return a line's parts with what was searched for in a role of its own."""
    pattern = re.compile(re.escape(words), 0 if words != words.casefold() else re.IGNORECASE)
    text = "".join(part for part, _ in line)
    spans = [found.span() for found in pattern.finditer(text) if found[0]]
    parts: Line = []
    start = 0
    for part, own in line:
        end = start + len(part)
        at = start
        for left, right in spans:
            left, right = max(left, at), min(right, end)
            if left < right:
                parts += [(text[at:left], own)] if at < left else []
                parts.append((text[left:right], role))
                at = right
        parts += [(text[at:end], own)] if at < end else []
        start = end
    return parts
