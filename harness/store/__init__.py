"""The SQLite file of a home, and every SQL statement.

`Store` is imported on first use: code that reads the file without it starts faster.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from kdharness.harness.util.lazy import lazy_names

if TYPE_CHECKING:
    from kdharness.harness.store.store import BenchNotes, Store, note_of

__all__ = ["BenchNotes", "Store", "note_of"]


if not TYPE_CHECKING:  # else a type checker would take any name for one of this package
    __getattr__ = lazy_names(
        __name__, {"kdharness.harness.store.store": ("BenchNotes", "Store", "note_of")}
    )
