"""Notices from parts without a reporter, such as an engine that waits for a server to start.

Whoever runs such a part decides where its notices go: a worker sends them to its run's events.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar

Listener = Callable[[str], None]


def _to_stderr(message: str) -> None:
    print(message, file=sys.stderr, flush=True)


_listener: ContextVar[Listener] = ContextVar("listener", default=_to_stderr)


def notify(message: str) -> None:
    """Send a notice to the listener of this context; without one, print it to stderr."""
    _listener.get()(message)


def notify_once(message: str) -> None:
    """Send a notice that this process has not sent before."""
    if message not in _sent:
        _sent.add(message)
        notify(message)


_sent: set[str] = set()


@contextmanager
def notices_to(listener: Listener) -> Iterator[None]:
    """Send the notices of the code inside to `listener`."""
    token = _listener.set(listener)
    try:
        yield
    finally:
        _listener.reset(token)
