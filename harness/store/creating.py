"""Whether opening a store that is not there creates it."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar

_creates: ContextVar[bool] = ContextVar("creates", default=True)


@contextmanager
def without_creating() -> Iterator[None]:
    """Open a store that is not there as an empty one in memory, so that nothing is written."""
    token = _creates.set(False)
    try:
        yield
    finally:
        _creates.reset(token)


def creates() -> bool:
    """Return whether a missing store is created."""
    return _creates.get()
