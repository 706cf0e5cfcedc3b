"""Recover readable rows of a damaged store into a new one; the damaged file is kept beside it.

SQLite stops at the first damaged page. Tables are therefore scanned by row number: at a damaged
page, the scan skips ahead until it can read again, and then reads backwards up to the damage, so
that only the rows on damaged pages are lost.
"""

from __future__ import annotations

import shutil
import sqlite3
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from kdharness.harness.errors import StoreError
from kdharness.harness.paths import Paths
from kdharness.harness.store import Store
from kdharness.harness.store.places import relocate
from kdharness.harness.store.rows import is_json
from kdharness.harness.util.atomic import sync_file, sync_folder

TABLES = (
    "runs",
    "checkpoints",
    "events",
    "points",
    "controls",
    "answers",
    "judgments",
    "labels",
    "label_designs",
    "cards",
    "bench_notes",
    "former_ids",
)
"""A store's tables, without derived data (group counts and scores are recomputed)."""
JSON_COLUMNS = {
    "runs": ("config", "info"),
    "checkpoints": ("parents", "info"),
    "events": ("info",),
    "answers": ("info",),
    "judgments": ("info",),
    "labels": ("info",),
    "label_designs": ("strata",),
    "cards": ("card",),
    "bench_notes": ("info",),
    "annotations": ("tags",),
}
_KEYS = {
    "points": ("run", "name", "step"),
    "bench_notes": ("checkpoint", "bench", "revision"),
    "former_ids": ("old",),
}
"""Tables without row numbers are scanned by their keys, from both ends."""
_SUFFIXES = ("", "-wal", "-shm")

Row = dict[str, Any]


def salvage(paths: Paths, now: float | None = None) -> tuple[dict[str, tuple[int, int]], Path]:
    """Replace a damaged store by a new one with all rows that can still be read.

    Args:
        paths: the home. No other process may have its store open.
        now: the time in the kept file's name.

    Returns:
        table -> (rows saved, rows dropped for invalid content); path of the damaged file.

    Raises:
        StoreError: there is no store, or none of it is readable. It is left unchanged.
    """
    store = paths.store
    if not store.is_file():
        raise StoreError("no store found", where=str(store))
    stamp = time.strftime("%Y%m%d-%H%M%S", time.localtime(now))
    kept = store.with_name(f"{store.name}.damaged-{stamp}")
    work = store.with_name(f".{store.name}.reading")
    fresh = store.with_name(f".{store.name}.salvaged")
    _remove(work, fresh)
    for copy in (kept, work):
        for suffix in ("", "-wal"):
            if _beside(store, suffix).exists():
                shutil.copy2(_beside(store, suffix), _beside(copy, suffix))
    counts: dict[str, tuple[int, int]] = {}
    try:
        with Store(fresh) as target:
            for table in TABLES:
                counts[table] = _save_table(work, target, table)
            for table in ("homes", "annotations"):
                _save_table(work, target, table)
            with target.db.atomic():  # the rows may be of an older version
                relocate(target.db.conn, paths.home)
            # One whole file, which a rename puts in place.
            target.db.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchall()
            target.db.execute("PRAGMA journal_mode=delete").fetchall()
        if not any(saved for saved, _ in counts.values()):
            raise StoreError(
                "no row of this store is readable",
                where=str(kept),
                hint="it is unchanged; start with a new home, or restore a backup",
            )
        sync_file(fresh)
        fresh.replace(store)
        for suffix in _SUFFIXES[1:]:
            _beside(store, suffix).unlink(missing_ok=True)
        sync_folder(store.parent)
    finally:
        _remove(work, fresh)
    return counts, kept


def _beside(path: Path, suffix: str) -> Path:
    return path.with_name(path.name + suffix)


def _remove(*paths: Path) -> None:
    for path in paths:
        for suffix in _SUFFIXES:
            _beside(path, suffix).unlink(missing_ok=True)


def _save_table(source: Path, target: Store, table: str) -> tuple[int, int]:
    """Copy one table; return (rows saved, rows left out)."""
    wanted = [
        row[1] for row in target.db.execute(f"PRAGMA table_xinfo({table})") if row[6] not in (2, 3)
    ]
    walk = _along_keys(source, table) if table in _KEYS else _along_rows(source, table)
    left_out = 0
    with target.db.atomic():
        for row in walk:
            values = {name: row[name] for name in wanted if name in row}
            columns = ", ".join(f'"{name}"' for name in values)
            marks = ", ".join("?" for _ in values)
            if not all(is_json(values.get(column)) for column in JSON_COLUMNS.get(table, ())):
                left_out += 1
                continue
            try:
                target.db.execute(
                    f"INSERT OR IGNORE INTO {table} ({columns}) VALUES ({marks})",
                    list(values.values()),
                )
            except (TypeError, ValueError, sqlite3.IntegrityError):
                left_out += 1
    saved: int = target.db.execute(f"SELECT COUNT(*) FROM {table}").fetchone()[0]
    return saved, left_out


def _read(source: Path, sql: str, args: Sequence[object] = ()) -> Iterator[Row]:
    """Query with a new connection: one that met a damaged page keeps failing."""
    connection = sqlite3.connect(source)
    connection.row_factory = sqlite3.Row
    connection.text_factory = lambda raw: raw.decode("utf-8", "replace")
    try:
        for row in connection.execute(sql, list(args)):
            yield dict(row)
    finally:
        connection.close()


def _along_rows(source: Path, table: str) -> Iterator[Row]:
    select = f"SELECT rowid AS _place, * FROM {table} WHERE rowid > ?"
    last = 0
    while True:
        try:
            for row in _read(source, f"{select} ORDER BY rowid", [last]):
                last = row["_place"]
                yield row
            return
        except sqlite3.DatabaseError:
            beyond = _first_after_damage(source, f"{select} ORDER BY rowid LIMIT 1", last)
        end = 2**62 if beyond is None else beyond
        try:
            yield from _read(source, f"{select} AND rowid < ? ORDER BY rowid DESC", [last, end])
        except sqlite3.DatabaseError:
            pass  # the other end of the damage
        if beyond is None:
            return
        last = beyond - 1


def _first_after_damage(source: Path, sql: str, last: int) -> int | None:
    """Return the first readable row number after a damaged range, found by doubling steps."""
    leap = 1
    while leap < 2**40:
        try:
            row = next(_read(source, sql, [last + leap]), None)
            return row["_place"] if row else None
        except sqlite3.DatabaseError:
            leap *= 2
    return None


def _along_keys(source: Path, table: str) -> Iterator[Row]:
    keys = _KEYS[table]
    seen: set[tuple[Any, ...]] = set()
    for order in ("ASC", "DESC"):
        listed = ", ".join(f"{key} {order}" for key in keys)
        try:
            for row in _read(source, f"SELECT * FROM {table} ORDER BY {listed}"):
                key = tuple(row[name] for name in keys)
                if key in seen:
                    break  # reached the rows that were read from the other end
                seen.add(key)
                yield row
        except sqlite3.DatabaseError:
            continue
