"""Opening the store: for writing or read-only, and only if this version knows its migrations."""

from __future__ import annotations

import os
import sqlite3
import time
from pathlib import Path

from kdharness.harness.errors import StoreError
from kdharness.harness.store.creating import creates
from kdharness.harness.store.inspection import open_read_only
from kdharness.harness.store.migrations import migrations, unknown_steps
from kdharness.harness.store.sqlite import Database
from kdharness.harness.util.filesystem import is_network
from kdharness.harness.util.os_errors import translate_store_errors

_MODES = frozenset({"wal", "delete", "truncate", "persist", "memory"})


def open_store(path: Path, timeout: float) -> tuple[Database, bool]:
    """Return (an open store with all migrations applied, whether it is read-only).

    A store in a folder that is not writable is opened read-only, so that a shared or archived
    home can be inspected.

    Raises:
        StoreError: damaged, written by a newer version, locked, or not readable.
    """
    if not creates(path) and not path.exists():
        empty = Database(memory=True)
        migrate(empty)
        return empty, False
    with translate_store_errors(path):
        read_only = path.exists() and not (
            os.access(path, os.W_OK) and os.access(path.parent, os.W_OK)
        )
        if not read_only:
            path.parent.mkdir(parents=True, exist_ok=True)
        db = open_to_read(path) if read_only else Database(path)
        try:
            _bring_up_to_date(db, path, timeout, read_only)
        except BaseException:
            db.close()
            raise
    return db, read_only


def _bring_up_to_date(db: Database, path: Path, timeout: float, read_only: bool) -> None:
    connection = db.conn
    connection.execute(f"PRAGMA busy_timeout={int(timeout * 1000)}")
    connection.execute("PRAGMA mmap_size=0")
    refuse_newer(db, path)
    if read_only:
        if migrations.pending(db):
            raise StoreError(
                "this store is of an older version and is not writable, so it cannot be migrated",
                where=str(path),
                hint="copy its folder to a writable one and open that with --home",
            )
        return
    _set_journal(connection, journal_mode(path))
    # Answers take minutes and judgments money: what was committed must survive a power failure,
    # which in WAL mode needs a flush per commit (a third of a millisecond on an SSD).
    connection.execute("PRAGMA synchronous=FULL")
    if migrations.pending(db):
        migrate(db)


def journal_mode(path: Path) -> str:
    """Return the journal mode: `KDHARNESS_JOURNAL_MODE`, else WAL, or delete on a network."""
    wanted = os.environ.get("KDHARNESS_JOURNAL_MODE", "").lower()
    if wanted in _MODES:
        return wanted
    return "delete" if is_network(path.parent) else "wal"


def _set_journal(connection: sqlite3.Connection, wanted: str) -> None:
    # Reading the mode is free; changing it needs an exclusive lock, so change only if needed.
    if connection.execute("PRAGMA journal_mode").fetchone()[0].lower() != wanted:
        connection.execute(f"PRAGMA journal_mode={wanted}")


def refuse_newer(db: Database, path: Path) -> None:
    """Raise StoreError if a newer version has migrated the store; nothing is changed."""
    newer = unknown_steps(step.name for step in migrations.applied(db))
    if newer:
        raise StoreError(
            f"a newer version of kdharness wrote this store (it has the migration {newer[-1]})",
            where=str(path),
            hint="nothing was changed; run: pip install --upgrade kdharness",
        )


def migrate(db: Database) -> None:
    """Apply pending migrations; another process may be doing the same concurrently."""
    for attempt in range(50):
        try:
            migrations.apply(db)
            return
        except sqlite3.DatabaseError as error:
            if not migrations.pending(db):
                return
            # IntegrityError: another process recorded the step in the meantime. A step and its
            # record are one transaction, so ours is rolled back.
            other = isinstance(error, sqlite3.OperationalError | sqlite3.IntegrityError)
            if attempt == 49 or not other:
                raise
            time.sleep(0.1)


def open_to_read(path: Path) -> Database:
    """Open a connection that never writes.

    Raises:
        StoreError: the write-ahead log has changes that cannot be read here.
    """
    return Database(open_read_only(path, timeout=5.0, without_log=False))
