"""What the machine did to us, as errors the user can mend: disks, permissions, the store's file.

SQLite and the operating system name what went wrong by codes; a person needs the next step. Any
other exception stays what it is: a fault of ours, with its traceback.
"""

from __future__ import annotations

import errno
import shutil
import sqlite3
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from kdharness.harness.errors import KDHarnessError, RunError, StoreError
from kdharness.harness.util.filesystem import nearest

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
"""Less free than this beside a failed write, and the disk is what failed."""
RESERVE_BYTES = 2**19


def as_user_error(error: BaseException, home: Path) -> KDHarnessError | None:
    """The same trouble in words and advice, or None for a fault of ours.

    Args:
        error: what was raised.
        home: where the store and the runs lie.
    """
    if isinstance(error, KDHarnessError):
        return error
    if isinstance(error, sqlite3.Error):
        return store_error(error, home / "kdharness.db")
    if isinstance(error, OSError) and error.errno in _FULL:
        return _disk_full(home, error)
    if isinstance(error, OSError) and error.errno in _DENIED and error.filename:
        return RunError(
            f"no permission: {error.strerror}",
            where=str(error.filename),
            hint="make it writable for you, or choose another place with --home",
        )
    text = str(error).lower()
    if any(words in text for words in _FULL_WORDS) or (
        # torch tells of a failed write by a line of its C++ source, without the reason.
        any(words in text for words in _WRITE_WORDS) and _free(home) < SCARCE_BYTES
    ):
        return _disk_full(home, error)
    return None


def store_error(error: sqlite3.Error, path: Path) -> KDHarnessError | None:
    """What SQLite complained about; None for a wrong statement, which is a fault of ours."""
    name = str(getattr(error, "sqlite_errorname", None) or "")
    where = str(path)
    if name.startswith(("SQLITE_CORRUPT", "SQLITE_NOTADB")):
        return StoreError(
            f"the store is damaged ({error})",
            where=where,
            hint="nothing was changed; save what can be saved: kdharness store salvage",
        )
    if name.startswith("SQLITE_FULL") or (name.startswith("SQLITE_IOERR") and _cramped(path)):
        return _disk_full(path.parent, error)
    if name.startswith(("SQLITE_BUSY", "SQLITE_LOCKED")):
        return StoreError(
            "the store stayed locked by another process",
            where=where,
            hint="try again; if it stays so: kdharness runs, and stop what hangs",
        )
    if name.startswith(("SQLITE_READONLY", "SQLITE_CANTOPEN", "SQLITE_PERM")):
        return StoreError(
            f"the store cannot be written here ({error})",
            where=where,
            hint="make the file and its folder writable for you, or choose another --home",
        )
    if name.startswith("SQLITE_IOERR"):
        return StoreError(
            f"the disk failed under the store ({error})",
            where=where,
            hint="look at the system's log; then: kdharness store check",
        )
    return None


@contextmanager
def translate_store_errors(path: Path) -> Iterator[None]:
    """Raise what SQLite and the system say of the store's file as a StoreError."""
    try:
        yield
    except sqlite3.Error as error:
        found = store_error(error, path)
        if found is None:
            raise
        raise found from error
    except OSError as error:
        raise StoreError(
            f"the store cannot be opened: {error.strerror or error}",
            where=str(path),
            hint="check the path and its permissions, or choose another place with --home",
        ) from error


@contextmanager
def remove_on_failure(folder: Path) -> Iterator[None]:
    """Remove a folder that could not be written to its end: on a full disk its room is needed.

    Raises what went wrong, in words where the machine is to blame. That is found out before the
    folder goes, while the disk still is as full as it was.
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
    """Keep some room on the disk for the last words; yields what gives it free.

    On a disk that is full to the last byte not even "the disk is full" can be stored.
    """
    path = folder / ".reserve"

    def give() -> None:
        path.unlink(missing_ok=True)

    try:
        path.write_bytes(b"\0" * RESERVE_BYTES)
        yield give
    finally:
        give()


def _disk_full(home: Path, error: BaseException) -> RunError:
    free = _free(home) / 2**20
    return RunError(
        f"the disk is full ({free:.0f} MiB free): {str(error).splitlines()[0]}",
        where=str(home),
        hint="what was finished is stored; free some space (kdharness store prune), "
        "then go on: kdharness resume RUN",
    )


def _free(place: Path) -> int:
    return shutil.disk_usage(nearest(place)).free


def _cramped(path: Path) -> bool:
    """Whether a write may have failed for want of room: a full disk, or a limit on file sizes."""
    try:
        import resource

        limit = resource.getrlimit(resource.RLIMIT_FSIZE)[0]
    except ImportError:
        limit = -1
    return _free(path.parent) < SCARCE_BYTES or limit != -1
