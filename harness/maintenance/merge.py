"""Merge another home's store into this one; merging is idempotent and independent of order.

Rows are identified by content, not by where they were written. An answer's or a judgment's id is
the hash of everything it depends on, a checkpoint's is the fingerprint of its weights, and a run
is identified by name, creation time and machine. So merging twice adds nothing, and homes merged
in another order have the same content.

If both stores have the same row, one rule decides: success takes precedence over failure, then
the older answer or judgment (it was paid for first), or the run that is further ahead.
"""

from __future__ import annotations

import json
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
from kdharness.harness.store.places import Places, relocate
from kdharness.harness.types import digest
from kdharness.harness.util.atomic import new_folder
from kdharness.harness.util.os_errors import translate_store_errors

_PRECEDENCE = {
    # Compared as rows: the smaller is kept. The texts only break ties, so that any order agrees.
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
    """Copy the rows of `source` that `target` lacks, in one transaction.

    Args:
        target: the store to merge into.
        source: another store's file. It is only read; an older one is migrated in a copy.
        home: the folder of `target`; needed for `files`.
        files: copy the runs' folders too and make checkpoints point at the copies.
        runs: only these runs, with their checkpoints, answers and judgments.

    Returns:
        Rows added or replaced, by table; `files` counts folders that were copied.

    Raises:
        StoreError: `source` is not a store, is damaged, or is `target` itself.
    """
    if not source.is_file():
        raise StoreError("no store found", where=str(source), hint="give the folder of a home")
    if source.resolve() == target.path.resolve():
        raise StoreError("cannot merge a store into itself", where=str(source))
    with tempfile.TemporaryDirectory(prefix="kdharness-merge-") as scratch:
        readable = _current_copy(source, Path(scratch))
        target.db.execute("ATTACH DATABASE ? AS other", [str(readable)])
        theirs = Places(source.resolve().parent)
        try:
            with target.db.atomic():
                counts, names = _rows(target, runs, theirs)
        finally:
            target.db.execute("DETACH DATABASE other")
    if files:
        assert home is not None
        counts["files"] = _files(target, source.parent, home, names)
    return counts


def _current_copy(source: Path, scratch: Path) -> Path:
    """Return the store's path, or a copy's if it is of an older version or read-only."""
    with translate_store_errors(source):
        db = open_to_read(source.resolve())
        try:
            refuse_newer(db, source)
            if not migrations.applied(db):
                raise StoreError("not a kdharness store", where=str(source))
            # SQLite creates files beside an attached store, even for reading.
            if not migrations.pending(db) and os.access(source.resolve().parent, os.W_OK):
                return source
            copy = sqlite3.connect(scratch / source.name)
            db.conn.backup(copy)
            copy.close()
        finally:
            db.close()
    with Store(scratch / source.name) as migrated, migrated.db.atomic():
        relocate(migrated.db.conn, source.resolve().parent)
    return scratch / source.name


# ---------------------------------------------------------------- rows


def _rows(
    target: Store, runs: Collection[str] | None, theirs: Places
) -> tuple[dict[str, int], dict[str, str]]:
    """Return (rows changed by table, source run id -> id in the target)."""
    _choose(target, runs)
    names = _run_names(target)
    counts = {"checkpoints": _checkpoints(target, names, theirs)}
    _renamed_ids(target)
    counts["runs"] = sum(_run(target, old, new, theirs) for old, new in names.items())
    for table, order in _PRECEDENCE.items():
        counts[table] = _merge_rows(target, table, order)
    counts["notes"] = target.db.execute(
        "INSERT INTO bench_notes (checkpoint, bench, revision, info) "
        "SELECT checkpoint, bench, revision, info FROM other.bench_notes "
        "WHERE checkpoint = '' OR checkpoint IN (SELECT id FROM chosen_checkpoints) "
        "ON CONFLICT DO UPDATE SET info = excluded.info WHERE "
        "(COALESCE(excluded.info ->> 'used', 0), excluded.info) > "
        "(COALESCE(bench_notes.info ->> 'used', 0), bench_notes.info)"
    ).rowcount
    counts["labels"] = _labels(target)
    target.db.execute(
        "INSERT INTO main.label_designs SELECT * FROM other.label_designs WHERE true "
        # The longer one is the same with newer items.
        "ON CONFLICT(id) DO UPDATE SET strata = excluded.strata "
        "WHERE length(excluded.strata) > length(label_designs.strata)"
    )
    _annotations(target, names)
    counts["cards"] = target.db.execute(
        "INSERT OR IGNORE INTO cards (judge, created, card) "
        "SELECT judge, created, card FROM other.cards"
    ).rowcount
    known = _move_former_ids(target)
    return {name: max(0, count - known[name]) for name, count in counts.items()}, names


def _move_former_ids(target: Store) -> Counter[str]:
    """Move rows that were merged under a former id to the id that replaced it.

    The other store may have used that id for another model: a checkpoint with any row that is
    unknown here keeps it.

    Returns:
        Merged rows that `target` already had, by table.
    """
    target.db.execute("INSERT OR IGNORE INTO former_ids SELECT old, new FROM other.former_ids")
    stored = {checkpoint.id: checkpoint for checkpoint in target.checkpoints()}
    going = {
        old: new for old, new in target.former_ids().items() if old in stored and new in stored
    }
    while strangers := [old for old in going if not target.is_moved(old, going)]:
        for old in strangers:
            del going[old]
    known: Counter[str] = Counter()
    for old, new in going.items():
        known["checkpoints"] += 1
        tables = [*_PRECEDENCE, "labels"]
        for table, name in (*zip(tables, tables, strict=True), ("bench_notes", "notes")):
            known[name] += target.db.execute(
                f"SELECT COUNT(*) FROM main.{table} WHERE checkpoint = ?", [old]
            ).fetchone()[0]
        heir = stored[new]
        target.adopt_checkpoint(stored[old], new, heir.weights, heir.interface, path=heir.path)
    return known


def _choose(target: Store, runs: Collection[str] | None) -> None:
    """Create temporary tables of the source's runs and checkpoints to merge."""
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
    # Ancestors are merged too, so that lineage is complete.
    db.execute(
        "WITH RECURSIVE wanted(id) AS ("
        " SELECT id FROM other.checkpoints WHERE run IN (SELECT id FROM chosen_runs)"
        " UNION SELECT parent.value FROM wanted JOIN other.checkpoints AS c ON c.id = wanted.id,"
        "  json_each(c.parents) AS parent) "
        "INSERT INTO chosen_checkpoints SELECT id FROM wanted WHERE id IN "
        "(SELECT id FROM other.checkpoints)"
    )


def _run_names(target: Store) -> dict[str, str]:
    """Map source run ids to ids here: a new one if the name belongs to another run."""
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


def _checkpoints(target: Store, names: Mapping[str, str], theirs: Places) -> int:
    """Add unknown checkpoints; part of the id is appended to a taken name."""
    columns = _columns(target, "checkpoints")
    # Checkpoints that both have may have another name here.
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
        row["path"] = target.places.stored(theirs.absolute(str(row["path"])))
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
    """Compute new judgment ids where a pair's other side has another name in the target."""
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


def _run(target: Store, old: str, new: str, places: Places) -> int:
    """Add a run, or update it if the source is further ahead, with its curves and events."""
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
    row["folder"] = target.places.stored(places.absolute(str(row["folder"])))
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


def _merge_rows(target: Store, table: str, order: tuple[str, ...]) -> int:
    """Add rows by id; of two with the same id, keep the one with precedence."""
    columns = _columns(target, table)
    names = ", ".join(columns)
    # A pair's other side is referenced by name, which may be another one here.
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


def _labels(target: Store) -> int:
    """Add unknown labels; the other side of a pair may have another name here."""
    columns = _columns(target, "labels")
    baseline = "COALESCE((SELECT new FROM renamed WHERE old = baseline), baseline)"
    theirs = ", ".join(baseline if column == "baseline" else column for column in columns)
    return target.db.execute(
        f"INSERT OR IGNORE INTO main.labels ({', '.join(columns)}) SELECT {theirs} "
        "FROM other.labels WHERE checkpoint IN (SELECT id FROM chosen_checkpoints)"
    ).rowcount


def _annotations(target: Store, names: Mapping[str, str]) -> None:
    """Add tags and notes to those that are here."""
    chosen = {row[0] for row in target.db.execute("SELECT id FROM chosen_checkpoints")}
    for kind, key, tags, note in target.db.execute(
        "SELECT kind, id, tags, note FROM other.annotations"
    ).fetchall():
        new = names.get(key) if kind == "run" else key if key in chosen else None
        if new is not None:
            target.add_annotation(kind, new, json.loads(tags), note)


def _columns(target: Store, table: str) -> list[str]:
    """Return a table's stored columns, quoted; generated ones (hidden 2 and 3) are left out."""
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
        source, copy = theirs / "runs" / old, home / "runs" / new
        if not source.is_dir():
            continue
        if not copy.exists():
            with new_folder(copy, "merging") as scratch:
                shutil.copytree(source, scratch, symlinks=True, dirs_exist_ok=True)
            copied += 1
        run = target.run(new)
        old_folder = str(run.folder) if run else ""
        target.update_run(new, folder=str(copy))
        for checkpoint in target.checkpoints(new):
            path = Path(checkpoint.path)
            if checkpoint.path and old_folder and path.is_relative_to(old_folder):
                target.set_checkpoint_path(checkpoint.id, str(copy / path.relative_to(old_folder)))
    return copied
