"""The newest runs, read before the store's own modules are loaded.

Loading sqlite-utils (and the numpy it looks for) takes longer than everything else before the
first paint. One SELECT through the standard library shows the runs at once; from the second paint
on, everything goes through `kdharness.harness.store`.
"""

from __future__ import annotations

import json
import sqlite3
from contextlib import closing
from dataclasses import fields

from kdharness.harness.errors import RunError
from kdharness.harness.paths import Paths
from kdharness.harness.store.inspection import open_read_only
from kdharness.harness.store.places import Places
from kdharness.harness.types import Run, RunStatus

FIRST_PAGE = 100


def first_page(paths: Paths, limit: int = FIRST_PAGE) -> list[Run]:
    """Return the newest runs; none if there is no store yet.

    Raises:
        RunError: the file is not a store, or cannot be read.
    """
    if not paths.store.exists():
        return []
    try:
        return _read(paths, limit)
    except (OSError, sqlite3.Error, ValueError):
        # An older version, or damage: opening the store migrates the one and reports the other.
        from kdharness.harness.store import Store

        try:
            with Store(paths.store) as store:
                return store.recent_runs(limit)
        except (OSError, sqlite3.Error) as error:
            raise RunError(
                f"the store cannot be opened: {error}",
                where=str(paths.store),
                hint="choose another home: kdharness --home DIR",
            ) from error


def _read(paths: Paths, limit: int) -> list[Run]:
    names = [field.name for field in fields(Run)]
    with closing(open_read_only(paths.store, timeout=5)) as connection:
        rows = connection.execute(
            f"SELECT {', '.join(names)} FROM runs ORDER BY created DESC, id LIMIT ?", [limit]
        ).fetchall()
    runs = []
    places = Places(paths.home)
    for row in rows:
        values = dict(zip(names, row, strict=True))
        values["folder"] = places.absolute(values["folder"])
        values["config"] = json.loads(values["config"] or "{}")
        values["info"] = json.loads(values["info"] or "{}")
        values["status"] = RunStatus(values["status"])
        runs.append(Run(**values))
    return runs
