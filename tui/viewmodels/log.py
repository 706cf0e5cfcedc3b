"""A run's events and the output of its libraries, as one timeline. No widgets."""

from __future__ import annotations

import re
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from kdharness.harness.paths import Paths
from kdharness.harness.runs.log_output import GrowingLog, is_bar, log_path
from kdharness.harness.store import Store
from kdharness.tui.viewmodels.rows import Line, text_lines

LEVELS = ("log", "all", "events", "problems")
"""What is shown: without lines of metrics, everything, events only, warnings and errors only."""
SHOWN: dict[str, tuple[str, ...]] = {
    "log": ("event", "output", "warning", "error"),
    "all": ("event", "output", "warning", "error", "metrics"),
    "events": ("event", "warning", "error"),
    "problems": ("warning", "error"),
}
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


@dataclass
class _Reading:
    """How far output has been put between events.

    Attributes:
        lines: those that have their place.
        waiting: output since the last event that was printed: events which were not printed are
            put before it, up to the next one that was.
        tracing: it ends within a traceback.
        at: how many events have their place.
        skip: lines to come that are the rest of an event's message.
        taken: how many lines of output were read.
    """

    lines: list[LogLine] = field(default_factory=list)
    waiting: list[LogLine] = field(default_factory=list)
    tracing: bool = False
    at: int = 0
    skip: int = 0
    taken: int = 0

    def copy(self) -> _Reading:
        return replace(self, lines=[*self.lines], waiting=[*self.waiting])


class Timeline:
    """Events in their order, with the output of libraries where it was printed.

    A worker prints most of its events: output between two of them was printed between them. Both
    grow, and what has its place is not read again.
    """

    def __init__(self) -> None:
        self._events: list[list[LogLine]] = []
        self._reading = _Reading()

    def grown(
        self, events: Sequence[Mapping[str, object]], output: Sequence[str], settled: int
    ) -> list[LogLine]:
        """Return the lines of what has been before, and of what is new.

        Args:
            events: `time`, `kind` and `message`, oldest first.
            output: the lines of the worker's log.
            settled: how many of those will not change again.
        """
        self._events += [_event_lines(event) for event in events[len(self._events) :]]
        reading, again = self._reading, None
        for line in output[reading.taken : settled]:
            printed, index = self._place(reading, line, events)
            if printed and index is not None and _first_line(events[index]) == printed[5]:
                again = None
            elif printed:
                # It is printed before it is stored: its event may be there the next time.
                again = again or reading.copy()
            self._take(reading, line, printed, index, events)
        self._reading = again or reading.copy()
        for line in output[reading.taken :]:
            self._take(reading, line, *self._place(reading, line, events), events)
        rest = [line for lines in self._events[reading.at :] for line in lines]
        return [*reading.lines, *reading.waiting, *rest]

    def _place(
        self, reading: _Reading, line: str, events: Sequence[Mapping[str, object]]
    ) -> tuple[re.Match[str] | None, int | None]:
        """Return the event that a line prints, if it does, and its index if it is stored."""
        printed = None if reading.skip else PRINTED.match(line)
        return printed, _stored(events, reading.at, printed) if printed else None

    def _take(
        self,
        reading: _Reading,
        line: str,
        printed: re.Match[str] | None,
        index: int | None,
        events: Sequence[Mapping[str, object]],
    ) -> None:
        """Put a line of output in its place."""
        reading.taken += 1
        if reading.skip:
            reading.skip -= 1
            return
        if printed is None:
            kind, reading.tracing = _kind(line, tracing=reading.tracing)
            reading.waiting += [LogLine(kind, row) for row in text_lines(line, ROLES[kind])]
            return
        if index is None:
            own = _event(line[:8], printed[4], printed[5])
        else:
            reading.lines += [row for rows in self._events[reading.at : index] for row in rows]
            own = self._events[index]
            rest = str(events[index]["message"]).split("\n")[1:]
            reading.at, reading.skip = index + 1, sum(bool(row.strip()) for row in rest)
        reading.lines += [*reading.waiting, *own]
        reading.waiting, reading.tracing = [], False


def timeline(events: Sequence[Mapping[str, object]], output: Sequence[str]) -> list[LogLine]:
    """Return events in their order, with the output of libraries where it was printed."""
    return Timeline().grown(events, output, len(output))


def _stored(events: Sequence[Mapping[str, object]], at: int, printed: re.Match[str]) -> int | None:
    """Return the index of the event that was printed, from `at` on."""
    hours, minutes, seconds = (int(printed[n]) for n in (1, 2, 3))
    when = hours * 3600 + minutes * 60 + seconds
    for index in range(at, len(events) if at == 0 else min(at + AHEAD, len(events))):
        event = events[index]
        if event["kind"] != printed[4]:
            continue
        if _first_line(event) == printed[5]:
            return index
        # What a log shows may be redacted: its time tells then.
        own = time.localtime(float(str(event["time"])))
        gap = abs(own.tm_hour * 3600 + own.tm_min * 60 + own.tm_sec - when)
        if min(gap, 86_400 - gap) <= CLOCK_SECONDS:
            return index
    return None


def _first_line(event: Mapping[str, object]) -> str:
    return str(event["message"]).partition("\n")[0]


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


def _kind(line: str, *, tracing: bool) -> tuple[str, bool]:
    """Return what a line of libraries is, and whether a traceback goes on after it.

    A traceback is an error as a whole.
    """
    if line.strip().startswith(TRACE):
        return "error", True
    if tracing:
        return "error", line.startswith((" ", "\t")) or not line.strip()
    if METRICS.fullmatch(line.strip()):
        return "metrics", False
    if is_bar(line):
        return "output", False
    return "error" if FAILS.search(line) else "warning" if WARNS.search(line) else "output", False


class LogFile:
    """One run's log: its events, and the end of its worker's, of which only what is new is read."""

    def __init__(self) -> None:
        self._log = GrowingLog()
        self._events: list[dict[str, Any]] = []
        self._timeline = Timeline()

    def timeline(self, store: Store, paths: Paths, run: str) -> list[LogLine]:
        """Return a run's events and the output around them."""
        while fresh := store.events(run, self._events[-1]["id"] if self._events else 0):
            self._events += fresh
        if self._log.read(log_path(paths, run)):
            self._timeline = Timeline()
        return self._timeline.grown(self._events, self._log.lines, self._log.output.settled)


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
