"""Whether opening a store that is not there creates it."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from pathlib import Path

_kept_missing: ContextVar[Path | None] = ContextVar("kept_missing", default=None)


@contextmanager
def without_creating(store: Path) -> Iterator[None]:
    """Open this store, while it is missing, as an empty one in memory; others are created."""
    token = _kept_missing.set(store)
    try:
        yield
    finally:
        _kept_missing.reset(token)


def creates(store: Path) -> bool:
    """Return whether opening a store creates it, if it is missing."""
    return store != _kept_missing.get()
