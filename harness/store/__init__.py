"""The one SQLite file of a home: every SQL statement there is."""

from kdharness.harness.store.store import Store

__all__ = ["Store"]
