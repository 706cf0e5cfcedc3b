"""Bring what another home holds into this one: as often as one likes, in any order.

Rows are known by what they are, not by where they were written. An answer's or a judgment's id is
the hash of all that it depends on, a checkpoint's is the fingerprint of its weights, and a run is
the one of that name that began at that moment on that machine. So merging twice adds nothing, and
homes merged in another order hold the same.

Where both sides hold the same thing, one rule decides: what succeeded stands before what failed,
then what is older (a verdict, an answer: it was paid for first) or further on (a run).
"""

from __future__ import annotations

import os
import shutil
import sqlite3
import tempfile
from collections import Counter
from collections.abc import Collection, Mapping
from dataclasses import replace
from pathlib import Path

from kdharness.harness.errors import StoreError
from kdharness.harness.store import Store
from kdharness.harness.store.checkpoints import moved_id
from kdharness.harness.store.connection import open_to_read, refuse_newer
from kdharness.harness.store.migrations import migrations
from kdharness.harness.types import digest
from kdharness.harness.util.atomic import atomic_replace_dir
from kdharness.harness.util.os_errors import translate_store_errors

_STANDS = {
    # Compared as rows: the smaller stands. The texts only settle ties, so that any order agrees.
    "answers": ("finish = 'error'", "created", "text", "finish", "info"),
    "judgments": ("status != 'ok'", "created", "raw", "status", "error", "info"),
}
_RUN = ("id", "created", "host")


def merge(
    target: Store,
    source: Path,
    *,
    home: Path | None = None,
    files: bool = False,
    runs: Collection[str] | None = None,
) -> dict[str, int]:
    """Copy what `source` holds and `target` lacks, in one transaction.

    Args:
        target: the store that grows.
        source: another store's file. It is only read; an older one is brought up to date in a
            copy of it.
        home: the folder of `target`; needed for `files`.
        files: copy the runs' folders too and let checkpoints point at the copies.
        runs: only these runs, with their checkpoints and all that was said of them.

    Returns:
        Rows added or replaced, by table; `files` counts folders that were copied.

    Raises:
        StoreError: `source` is not a store, is damaged, or is this very store.
    """
    if not source.is_file():
        raise StoreError("no store here", where=str(source), hint="name a home: the folder of it")
    if source.resolve() == target.path.resolve():
        raise StoreError("this is the store itself", where=str(source))
    with tempfile.TemporaryDirectory(prefix="kdharness-merge-") as scratch:
        readable = _current_copy(source, Path(scratch))
        target.db.execute("ATTACH DATABASE ? AS other", [str(readable)])
        try:
            with target.db.atomic():
                counts, names = _rows(target, runs)
        finally:
            target.db.execute("DETACH DATABASE other")
    if files:
        assert home is not None
        counts["files"] = _files(target, source.parent, home, names)
    return counts


def _current_copy(source: Path, scratch: Path) -> Path:
    """The store itself, or a copy of one that has an older shape or cannot be written."""
    with translate_store_errors(source):
        db = open_to_read(source.resolve())
        try:
            refuse_newer(db, source)
            if not migrations.applied(db):
                raise StoreError("this is not a store of kdharness", where=str(source))
            # SQLite makes files beside a store that is attached, even to read it.
            if not migrations.pending(db) and os.access(source.resolve().parent, os.W_OK):
                return source
            copy = sqlite3.connect(scratch / source.name)
            db.conn.backup(copy)
            copy.close()
        finally:
            db.close()
    Store(scratch / source.name).close()
    return scratch / source.name


# ---------------------------------------------------------------- rows


def _rows(target: Store, runs: Collection[str] | None) -> tuple[dict[str, int], dict[str, str]]:
    """(rows changed by table, source run id -> id here)."""
    _choose(target, runs)
    names = _run_names(target)
    counts = {"checkpoints": _checkpoints(target, names)}
    _renamed_ids(target)
    counts["runs"] = sum(_run(target, old, new) for old, new in names.items())
    for table, order in _STANDS.items():
        counts[table] = _standing(target, table, order)
    counts["notes"] = target.db.execute(
        "INSERT INTO bench_notes (checkpoint, bench, revision, info) "
        "SELECT checkpoint, bench, revision, info FROM other.bench_notes "
        "WHERE checkpoint = '' OR checkpoint IN (SELECT id FROM chosen_checkpoints) "
        "ON CONFLICT DO UPDATE SET info = excluded.info WHERE "
        "(COALESCE(excluded.info ->> 'used', 0), excluded.info) > "
        "(COALESCE(bench_notes.info ->> 'used', 0), bench_notes.info)"
    ).rowcount
    counts["cards"] = target.db.execute(
        "INSERT OR IGNORE INTO cards (judge, created, card) "
        "SELECT judge, created, card FROM other.cards"
    ).rowcount
    here = _settle_former(target)
    return {name: max(0, count - here[name]) for name, count in counts.items()}, names


def _settle_former(target: Store) -> Counter[str]:
    """Let what came under an id that was given up go where the rest of it is.

    The same id may have stood for another model there: a checkpoint of which anything is not
    known here stays under it.

    Returns:
        Rows that had come and were here already, by table.
    """
    target.db.execute("INSERT OR IGNORE INTO former_ids SELECT old, new FROM other.former_ids")
    stored = {checkpoint.id: checkpoint for checkpoint in target.checkpoints()}
    going = {
        old: new for old, new in target.former_ids().items() if old in stored and new in stored
    }
    while strangers := [old for old in going if not target.is_moved(old, going)]:
        for old in strangers:
            del going[old]
    here: Counter[str] = Counter()
    for old, new in going.items():
        here["checkpoints"] += 1
        for table, name in (*zip(_STANDS, _STANDS, strict=True), ("bench_notes", "notes")):
            here[name] += target.db.execute(
                f"SELECT COUNT(*) FROM main.{table} WHERE checkpoint = ?", [old]
            ).fetchone()[0]
        made = stored[new]
        target.adopt_checkpoint(stored[old], new, made.weights, made.interface, path=made.path)
    return here


def _choose(target: Store, runs: Collection[str] | None) -> None:
    """Temporary tables of the source's runs and checkpoints that are to come."""
    db = target.db
    db.execute("CREATE TEMP TABLE IF NOT EXISTS renamed (old TEXT PRIMARY KEY, new TEXT)")
    db.execute("DELETE FROM renamed")
    for kind in ("runs", "checkpoints"):
        db.execute(f"CREATE TEMP TABLE IF NOT EXISTS chosen_{kind} (id TEXT PRIMARY KEY)")
        db.execute(f"DELETE FROM chosen_{kind}")
        if runs is None:
            db.execute(f"INSERT INTO chosen_{kind} SELECT id FROM other.{kind}")
    if runs is None:
        return
    db.conn.executemany("INSERT OR IGNORE INTO chosen_runs VALUES (?)", [[run] for run in runs])
    # Ancestors come along, so that lineage can still be walked.
    db.execute(
        "WITH RECURSIVE wanted(id) AS ("
        " SELECT id FROM other.checkpoints WHERE run IN (SELECT id FROM chosen_runs)"
        " UNION SELECT parent.value FROM wanted JOIN other.checkpoints AS c ON c.id = wanted.id,"
        "  json_each(c.parents) AS parent) "
        "INSERT INTO chosen_checkpoints SELECT id FROM wanted WHERE id IN "
        "(SELECT id FROM other.checkpoints)"
    )


def _run_names(target: Store) -> dict[str, str]:
    """Source run id -> its id here: another one where the name belongs to another run."""
    identity = ", ".join(_RUN)
    have = {row[0]: row for row in target.db.execute(f"SELECT {identity} FROM main.runs")}
    names = {}
    for row in target.db.execute(
        f"SELECT {identity} FROM other.runs WHERE id IN (SELECT id FROM chosen_runs) ORDER BY id"
    ).fetchall():
        old, new = row[0], row[0]
        if new in have and have[new] != row:
            new = f"{old}-{digest(row[1], row[2])[:6]}"
        names[old] = new
    return names


def _checkpoints(target: Store, names: Mapping[str, str]) -> int:
    """Add unknown checkpoints; a taken name is told apart by its fingerprint."""
    columns = _columns(target, "checkpoints")
    # What both have may be called otherwise here.
    target.db.execute(
        "INSERT INTO renamed SELECT theirs.name, mine.name FROM other.checkpoints AS theirs "
        "JOIN main.checkpoints AS mine ON mine.id = theirs.id WHERE mine.name != theirs.name"
    )
    taken = {row[0] for row in target.db.execute("SELECT name FROM main.checkpoints")}
    added = 0
    for values in target.db.execute(
        f"SELECT {', '.join(columns)} FROM other.checkpoints WHERE id IN "
        "(SELECT id FROM chosen_checkpoints) AND id NOT IN (SELECT id FROM main.checkpoints) "
        "ORDER BY id"
    ).fetchall():
        row = dict(zip(columns, values, strict=True))
        own, at, suffix = str(row["name"]).partition("@")
        row["run"] = names.get(row["run"], row["run"])
        row["name"] = names.get(own, own) + at + suffix
        if row["name"] in taken:
            row["name"] = f"{row['name']}-{row['id'][:6]}"
        taken.add(row["name"])
        named = dict(zip(columns, values, strict=True))["name"]
        if row["name"] != named:
            target.db.execute("INSERT INTO renamed VALUES (?, ?)", [named, row["name"]])
        marks = ", ".join("?" for _ in columns)
        target.db.execute(
            f"INSERT INTO main.checkpoints ({', '.join(columns)}) VALUES ({marks})",
            list(row.values()),
        )
        added += 1
    return added


def _renamed_ids(target: Store) -> None:
    """A pair's other side may have another name here, which is part of a judgment's id."""
    db = target.db
    db.execute("CREATE TEMP TABLE IF NOT EXISTS moved (old TEXT PRIMARY KEY, new TEXT)")
    db.execute("DELETE FROM moved")
    for name, here in db.execute("SELECT old, new FROM renamed").fetchall():
        for judgment in target.judgments_against(name, "other"):
            fresh = moved_id(judgment, replace(judgment, baseline=here))
            if fresh == judgment.id:
                continue
            mirrors = digest("mirror", judgment.id), digest("mirror", fresh)
            db.conn.executemany("INSERT INTO moved VALUES (?, ?)", [(judgment.id, fresh), mirrors])


def _run(target: Store, old: str, new: str) -> int:
    """Add a run, or bring it to where the other side has got; its curves and events with it."""
    db = target.db
    columns = _columns(target, "runs")
    further = "COALESCE(finished, 0), COALESCE(heartbeat, 0), step"
    theirs = db.execute(f"SELECT {further} FROM other.runs WHERE id = ?", [old]).fetchone()
    mine = db.execute(f"SELECT {further} FROM main.runs WHERE id = ?", [new]).fetchone()
    if mine is not None and tuple(mine) >= tuple(theirs):
        return 0
    row = dict(
        zip(
            columns,
            db.execute(
                f"SELECT {', '.join(columns)} FROM other.runs WHERE id = ?", [old]
            ).fetchone(),
            strict=True,
        )
    )
    row["id"] = new
    if row["checkpoint"]:
        made = db.execute(
            "SELECT mine.name FROM other.checkpoints AS theirs JOIN main.checkpoints AS mine "
            "ON mine.id = theirs.id WHERE theirs.name = ?",
            [row["checkpoint"]],
        ).fetchone()
        row["checkpoint"] = made[0] if made else row["checkpoint"]
    for table in ("events", "points"):
        db.execute(f"DELETE FROM main.{table} WHERE run = ?", [new])
    db.execute(
        f"INSERT OR REPLACE INTO main.runs ({', '.join(columns)}) "
        f"VALUES ({', '.join('?' for _ in columns)})",
        list(row.values()),
    )
    db.execute(
        "INSERT INTO main.events (run, time, kind, message, info) "
        "SELECT ?, time, kind, message, info FROM other.events WHERE run = ? ORDER BY id",
        [new, old],
    )
    db.execute(
        "INSERT INTO main.points (run, name, step, value, time) "
        "SELECT ?, name, step, value, time FROM other.points WHERE run = ?",
        [new, old],
    )
    return 1


def _standing(target: Store, table: str, order: tuple[str, ...]) -> int:
    """Add rows by identity; of two with the same one, the one that stands by the rule stays."""
    columns = _columns(target, table)
    names = ", ".join(columns)
    # A pair's other side is told by name, and may have got another one here.
    read = (
        {}
        if table != "judgments"
        else {
            "id": "COALESCE((SELECT new FROM moved WHERE old = id), id)",
            "baseline": "COALESCE((SELECT new FROM renamed WHERE old = baseline), baseline)",
            "info": "COALESCE((SELECT json_set(info, '$.mirrored', new) FROM moved "
            "WHERE old = json_extract(info, '$.mirrored')), info)",
        }
    )
    theirs = ", ".join(read.get(column, column) for column in columns)

    def rank(side: str) -> str:
        return ", ".join(f"{side}.{name}" for name in order)

    return target.db.execute(
        f"INSERT INTO main.{table} ({names}) SELECT {theirs} FROM other.{table} "
        "WHERE checkpoint IN (SELECT id FROM chosen_checkpoints) "
        f"ON CONFLICT(id) DO UPDATE SET {', '.join(f'{c} = excluded.{c}' for c in columns)} "
        f"WHERE ({rank('excluded')}) < ({rank(table)})"
    ).rowcount


def _columns(target: Store, table: str) -> list[str]:
    """A table's stored columns, quoted; generated ones (hidden 2 and 3) follow by themselves."""
    return [
        f'"{row[1]}"' if row[1] == "order" else row[1]
        for row in target.db.execute(f"PRAGMA main.table_xinfo({table})")
        if row[6] not in (2, 3)
    ]


# ---------------------------------------------------------------- files


def _files(target: Store, theirs: Path, home: Path, names: Mapping[str, str]) -> int:
    """Copy run folders that are not here, and point their rows at the copies."""
    copied = 0
    for old, new in names.items():
        source, place = theirs / "runs" / old, home / "runs" / new
        if not source.is_dir():
            continue
        if not place.exists():
            place.parent.mkdir(parents=True, exist_ok=True)
            scratch = Path(tempfile.mkdtemp(prefix=".merging-", dir=place.parent))
            try:
                shutil.copytree(source, scratch / "run", symlinks=True)
                atomic_replace_dir(scratch / "run", place)
            finally:
                shutil.rmtree(scratch, ignore_errors=True)
            copied += 1
        run = target.run(new)
        moved = str(run.folder) if run else ""
        target.update_run(new, folder=str(place))
        for checkpoint in target.checkpoints(new):
            path = Path(checkpoint.path)
            if checkpoint.path and moved and path.is_relative_to(moved):
                target.set_checkpoint_path(checkpoint.id, str(place / path.relative_to(moved)))
    return copied
