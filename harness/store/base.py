"""Base class of the store: one connection, and helpers that read and write rows."""

from __future__ import annotations

import json
import os
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Self

from kdharness.harness.errors import StoreError
from kdharness.harness.store.connection import open_store
from kdharness.harness.store.places import Places
from kdharness.harness.store.rows import RowType, decode, encode
from kdharness.harness.types import Checkpoint, Run

PATH_FIELDS: dict[type, str] = {Run: "folder", Checkpoint: "path"}
"""The path of each kind of row, which is stored relative to the home."""


class StoreBase:
    """An open connection."""

    def __init__(self, path: str | os.PathLike[str], *, timeout: float = 30.0) -> None:
        """Open or create the store and apply pending migrations.

        `KDHARNESS_JOURNAL_MODE` replaces WAL, which network file systems do not support.

        Raises:
            StoreError: damaged, written by a newer version, locked, or not readable.
        """
        self.path = Path(path)
        self.db, self.read_only = open_store(self.path, timeout)
        self.places = self._places()

    def _places(self) -> Places:
        """Return the places of the home; a new one is recorded."""
        former = [row["path"] for row in self.db.query("SELECT path FROM homes")]
        places = Places(self.path.parent, former)
        if str(places.home) not in former and not self.read_only:
            self._insert("homes", [{"path": str(places.home)}], "IGNORE")
        return places

    def close(self) -> None:
        """Close the connection."""
        self.db.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    @contextmanager
    def writing(self) -> Iterator[None]:
        """Change what depends on what is read: no other process can write in between.

        `db.atomic` alone begins by reading, and fails if another has written before it writes.
        """
        if self.db.conn.in_transaction:
            with self.db.atomic():
                yield
            return
        self.db.conn.execute("BEGIN IMMEDIATE")
        try:
            yield
            self.db.conn.execute("COMMIT")
        except BaseException:
            self.db.rollback()
            raise

    def _rows(self, kind: type[RowType], sql: str, args: Sequence[object] = ()) -> list[RowType]:
        field = PATH_FIELDS.get(kind)
        try:
            rows = self.db.query(sql, list(args))
            if field is not None:
                rows = ({**row, field: self.places.absolute(row[field])} for row in rows)
            return [decode(kind, row) for row in rows]
        except ValueError as error:
            raise self._unreadable(f"a {kind.__name__.lower()}", error) from error

    def _unreadable(self, what: str, error: ValueError) -> StoreError:
        return StoreError(
            f"{what} contains invalid data ({error})",
            where=str(self.path),
            hint="nothing was changed; drop such rows: kdharness store salvage",
        )

    def _json(self, text: str, what: str) -> Any:
        try:
            return json.loads(text)
        except ValueError as error:
            raise self._unreadable(what, error) from error

    def _encoded(self, row: Run | Checkpoint) -> dict[str, Any]:
        """Convert a row with a path to a table row."""
        field = PATH_FIELDS[type(row)]
        values = encode(row)
        return {**values, field: self.places.stored(str(values[field]))}

    def _write(self, sql: str, args: Sequence[object] = ()) -> int:
        with self.db.atomic():
            return self.db.execute(sql, list(args)).rowcount

    def _insert(self, table: str, rows: Iterable[dict[str, Any]], verb: str) -> None:
        listed = list(rows)
        if not listed:
            return
        columns = list(listed[0])
        names = ", ".join(f'"{column}"' for column in columns)
        marks = ", ".join("?" for _ in columns)
        sql = f"INSERT OR {verb} INTO {table} ({names}) VALUES ({marks})"
        with self.db.atomic():
            self.db.conn.executemany(sql, [[row[column] for column in columns] for row in listed])
