"""Operating-system and SQLite errors, as errors a user can fix: disks, permissions, the store.

SQLite and the operating system report errors as codes; a person needs to know what to do. Any
other exception passes unchanged: it is a bug in kdharness and keeps its traceback.
"""

from __future__ import annotations

import errno
import shutil
import sqlite3
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from kdharness.harness.errors import KDHarnessError, RunError, StoreError
from kdharness.harness.util.filesystem import free_bytes

_FULL = frozenset({errno.ENOSPC, errno.EDQUOT, errno.EFBIG})
_FULL_WORDS = (
    "no space left on device",
    "os error 28",
    "disk quota exceeded",
    "os error 122",
    "file too large",
    "os error 27",
)
_WRITE_WORDS = ("write", "writing", "inline_container", "unexpected pos", "iostream")
_DENIED = frozenset({errno.EACCES, errno.EPERM, errno.EROFS})
SCARCE_BYTES = 16 * 2**20
"""With less free space than this, a failed write is blamed on a full disk."""
RESERVE_BYTES = 2**19


def as_user_error(error: BaseException, home: Path) -> KDHarnessError | None:
    """Return the error as one a user can fix, or None for a bug in kdharness.

    Args:
        error: the exception that was raised.
        home: the folder with the store and the runs.
    """
    if isinstance(error, KDHarnessError):
        return error
    if isinstance(error, sqlite3.Error):
        return store_error(error, home / "kdharness.db")
    if isinstance(error, OSError) and error.errno in _FULL:
        return _disk_full(home, error)
    if isinstance(error, OSError) and error.errno in _DENIED and error.filename:
        return RunError(
            f"permission denied: {error.strerror}",
            where=str(error.filename),
            hint="make it writable, or choose another folder with --home",
        )
    text = str(error).lower()
    if any(words in text for words in _FULL_WORDS) or (
        # torch reports a failed write as a line of its C++ source, without the reason.
        any(words in text for words in _WRITE_WORDS) and free_bytes(home) < SCARCE_BYTES
    ):
        return _disk_full(home, error)
    return None


def store_error(error: sqlite3.Error, path: Path) -> KDHarnessError | None:
    """Translate an SQLite error; None for a wrong statement, which is a bug in kdharness."""
    name = str(getattr(error, "sqlite_errorname", None) or "")
    where = str(path)
    if name.startswith(("SQLITE_CORRUPT", "SQLITE_NOTADB")):
        return StoreError(
            f"the store is damaged ({error})",
            where=where,
            hint="nothing was changed; recover readable rows: kdharness store salvage",
        )
    if name.startswith("SQLITE_FULL") or (name.startswith("SQLITE_IOERR") and _lacks_space(path)):
        return _disk_full(path.parent, error)
    if name.startswith(("SQLITE_BUSY", "SQLITE_LOCKED")):
        return StoreError(
            "the store is locked by another process",
            where=where,
            hint="try again; if it stays locked: kdharness runs, and stop runs that hang",
        )
    if name.startswith(("SQLITE_READONLY", "SQLITE_CANTOPEN", "SQLITE_PERM")):
        return StoreError(
            f"the store is not writable ({error})",
            where=where,
            hint="make the file and its folder writable, or choose another --home",
        )
    if name.startswith("SQLITE_IOERR"):
        return StoreError(
            f"disk I/O error in the store ({error})",
            where=where,
            hint="check the system log; then: kdharness store check",
        )
    return None


@contextmanager
def translate_store_errors(path: Path) -> Iterator[None]:
    """Raise errors of SQLite and the system about the store's file as a StoreError."""
    try:
        yield
    except sqlite3.Error as error:
        translated = store_error(error, path)
        if translated is None:
            raise
        raise translated from error
    except OSError as error:
        raise StoreError(
            f"the store cannot be opened: {error.strerror or error}",
            where=str(path),
            hint="check the path and its permissions, or choose another folder with --home",
        ) from error


@contextmanager
def remove_on_failure(folder: Path) -> Iterator[None]:
    """Remove a folder that could not be written completely: a full disk needs its space.

    Raises the original error, translated if the operating system caused it. It is translated
    before the folder is removed, while the disk is still full.
    """
    try:
        yield
    except BaseException as error:
        known = as_user_error(error, folder.parent)
        shutil.rmtree(folder, ignore_errors=True)
        if known is None or known is error:
            raise
        raise known from error


@contextmanager
def reserved_space(folder: Path) -> Iterator[Callable[[], None]]:
    """Reserve some disk space for the final error message; yield the function that frees it.

    On a completely full disk not even "the disk is full" can be stored.
    """
    path = folder / ".reserve"

    def release() -> None:
        path.unlink(missing_ok=True)

    try:
        path.write_bytes(b"\0" * RESERVE_BYTES)
        yield release
    finally:
        release()


def _disk_full(home: Path, error: BaseException) -> RunError:
    free = free_bytes(home) / 2**20
    return RunError(
        f"the disk is full ({free:.0f} MiB free): {str(error).splitlines()[0]}",
        where=str(home),
        hint="finished work is stored; free some space (kdharness store prune), "
        "then continue: kdharness resume RUN",
    )


def _lacks_space(path: Path) -> bool:
    """Return whether a write may have failed because of a full disk or a file size limit."""
    try:
        import resource

        limit = resource.getrlimit(resource.RLIMIT_FSIZE)[0]
    except ImportError:
        limit = -1
    return free_bytes(path.parent) < SCARCE_BYTES or limit != -1
