"""The SQLite file of a home, and every SQL statement.

`Store` is imported on first use: code that reads the file without it starts faster.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from kdharness.harness.store.store import Store

__all__ = ["Store"]


def __getattr__(name: str) -> object:
    if name == "Store":
        from kdharness.harness.store.store import Store

        return Store
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
