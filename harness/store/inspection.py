"""Read-only inspection of a store's file, without migrating it.

It must also work for a store that this version refuses, or that is damaged.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from urllib.parse import quote

from kdharness.harness.errors import StoreError
from kdharness.harness.store.places import Places
from kdharness.harness.types import Run, RunStatus


def open_read_only(
    path: Path, *, timeout: float = 1.0, without_log: bool = True
) -> sqlite3.Connection:
    """Open a store's file read-only.

    In WAL mode SQLite creates a shared-memory file beside the store. If it cannot, the store is
    read as it is on disk, without the changes in its write-ahead log.

    Args:
        timeout: seconds to wait for a lock.
        without_log: whether it may be read without the changes in that log.

    Raises:
        StoreError: the log has changes, and `without_log` is False.
        sqlite3.OperationalError: another process holds the store.
    """
    address = f"file:{quote(str(path))}?mode=ro"
    connection = sqlite3.connect(address, uri=True, timeout=timeout)
    try:
        connection.execute("SELECT COUNT(*) FROM sqlite_master")
    except sqlite3.OperationalError as error:
        connection.close()
        if is_locked(error):
            raise
        log = path.with_name(path.name + "-wal")
        if not without_log and log.exists() and log.stat().st_size:
            raise StoreError(
                "the store has changes in its write-ahead log, and its folder is not writable",
                where=str(log),
                hint="copy the folder to a writable one and open that with --home",
            ) from None
        connection = sqlite3.connect(f"{address}&immutable=1", uri=True)
    return connection


def is_locked(error: sqlite3.Error) -> bool:
    """Return whether the error means that another process has locked the store."""
    return str(getattr(error, "sqlite_errorname", "")).startswith(("SQLITE_BUSY", "SQLITE_LOCKED"))


def sampled_checkpoints(connection: sqlite3.Connection, home: Path) -> int:
    """Count the checkpoints with a folder that still have the identity of an older version."""
    rows = connection.execute(
        "SELECT path FROM checkpoints WHERE weights = '' AND path != ''"
    ).fetchall()
    places = Places(home)
    return sum(Path(places.absolute(row[0])).is_dir() for row in rows)


def paths_outside(connection: sqlite3.Connection, home: Path) -> tuple[list[str], list[str]]:
    """Return (made in a home, but stored under a path outside this one; other models outside).

    Each as `name: path`. Links out of the home are followed; hub models have no path.
    """
    places = Places(home)
    made: list[str] = []
    others: list[str] = []
    rows = connection.execute(
        "SELECT id, folder, 1 FROM runs UNION ALL "
        "SELECT name, path, run IS NOT NULL FROM checkpoints ORDER BY 1"
    )
    for name, path, of_run in rows.fetchall():
        absolute = Path(places.absolute(path))
        if not absolute.is_absolute():
            continue
        real = absolute.resolve()
        if real.is_relative_to(places.home) or places.stored(str(real)) != str(real):
            continue
        (made if of_run else others).append(f"{name}: {real}")
    return list(dict.fromkeys(made)), others


def applied_migrations(connection: sqlite3.Connection) -> list[str] | None:
    """Return the names of applied migrations; None if the file is not a kdharness store."""
    tables = {row[0] for row in connection.execute("SELECT name FROM sqlite_master")}
    if not {"_sqlite_migrations", "runs"} <= tables:
        return [] if not tables else None
    rows = connection.execute(
        "SELECT name FROM _sqlite_migrations WHERE migration_set = 'kdharness' ORDER BY rowid"
    )
    return [row[0] for row in rows]


def quick_check(connection: sqlite3.Connection, size: int) -> tuple[str, bool]:
    """Return (what is damaged, or an empty string; whether the file was read at all).

    Before 3.43 SQLite could not be interrupted within a table, so the size decides.
    """
    if size > CHECK_BYTES:
        return "", False
    first = connection.execute("PRAGMA quick_check(1)").fetchone()[0]
    return ("" if first == "ok" else str(first).splitlines()[-1]), True


def live_runs(path: Path) -> Iterator[Run]:
    """Yield the runs that should have a process; configs and folders are left out."""
    columns = "id, method, status, created, heartbeat, pid, pid_started, host"
    with closing(open_read_only(path)) as connection:
        tables = connection.execute("SELECT 1 FROM sqlite_master WHERE name = 'runs'").fetchone()
        if not tables:
            return
        for row in connection.execute(
            f"SELECT {columns} FROM runs WHERE status IN ('starting', 'running', 'paused')"
        ):
            name, method, status, created, heartbeat, pid, began, host = row
            yield Run(
                id=name,
                method=method,
                status=RunStatus(status),
                config={},
                config_hash="",
                folder="",
                created=created,
                heartbeat=heartbeat,
                pid=pid,
                pid_started=began,
                host=host,
            )


CHECK_BYTES = 256 * 2**20
"""A larger store is not read as a whole here: on a slow disk that takes minutes."""
