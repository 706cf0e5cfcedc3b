"""Store maintenance: check, vacuum, back up, prune, archive runs.

Commands that remove anything first list what they would remove.
"""

from __future__ import annotations

import shutil
import sqlite3
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from kdharness.harness.errors import RunError, StoreError
from kdharness.harness.maintenance.merge import merge
from kdharness.harness.maintenance.removed_folders import moved_weights
from kdharness.harness.maintenance.salvage import JSON_COLUMNS, TABLES
from kdharness.harness.paths import Paths
from kdharness.harness.runs.status import effective_status, find_run
from kdharness.harness.store import Store
from kdharness.harness.store.rows import is_json
from kdharness.harness.types import RunStatus
from kdharness.harness.util.atomic import is_sealed, sync_file, sync_folder
from kdharness.harness.util.filesystem import free_bytes
from kdharness.harness.util.text import listed


def check(paths: Paths) -> list[dict[str, Any]]:
    """Check the store; each row has what was checked, `ok`, `note` or `broken`, and details.

    Reads every page of the file. Raises StoreError when it cannot even be opened.
    """
    with Store(paths.store) as store:
        report = [row[0] for row in store.db.execute("PRAGMA integrity_check(20)").fetchall()]
        intact = report == ["ok"]
        rows = [_finding("file", "ok" if intact else "broken", "; ".join(report)[:500])]
        if not intact:
            return rows
        counts = {
            name: store.db.execute(f"SELECT COUNT(*) FROM {name}").fetchone()[0] for name in TABLES
        }
        size = _store_bytes(paths.store) / 2**20
        per_table = ", ".join(f"{count:,} {name}" for name, count in counts.items())
        rows.append(_finding("rows", "ok", f"{size:,.1f} MiB: {per_table}"))
        bad_rows = [
            _finding(table, "broken", f"{bad} rows with invalid JSON in {column}")
            for table, column, bad in _bad_json(store)
        ]
        if bad_rows:
            return rows + bad_rows
        missing = [
            checkpoint.name
            for checkpoint in store.checkpoints()
            if checkpoint.path and not Path(checkpoint.path).exists()
        ]
        rows.append(
            _finding(
                "weights",
                "note" if missing else "ok",
                f"not where the store says: {listed(missing)}" if missing else "all found",
            )
        )
        orphans = [
            row[0]
            for row in store.db.execute(
                "SELECT DISTINCT checkpoint FROM judgment_groups "
                "WHERE checkpoint NOT IN (SELECT id FROM checkpoints)"
            ).fetchall()
        ]
        rows.append(
            _finding(
                "lineage",
                "broken" if orphans else "ok",
                f"judgments of unknown checkpoints: {listed(orphans)}"
                if orphans
                else "every verdict has its checkpoint",
            )
        )
        gone = [run.id for run in store.runs() if effective_status(run) is RunStatus.INTERRUPTED]
        rows.append(
            _finding(
                "runs",
                "note" if gone else "ok",
                f"interrupted, resumable: {listed(gone)}" if gone else "none is interrupted",
            )
        )
    return rows


def _finding(check: str, status: str, detail: str) -> dict[str, object]:
    return {"check": check, "status": status, "detail": detail}


def _bad_json(store: Store) -> Iterator[tuple[str, str, int]]:
    for table, columns in JSON_COLUMNS.items():
        for column in columns:
            query = f"SELECT {column} FROM {table} WHERE NOT json_valid({column})"
            bad = sum(not is_json(text) for (text,) in store.db.execute(query))
            if bad:
                yield table, column, bad


def _store_bytes(path: Path) -> int:
    parts = [path.with_name(path.name + suffix) for suffix in ("", "-wal")]
    return sum(part.stat().st_size for part in parts if part.exists())


# ---------------------------------------------------------------- shrink and copy


def vacuum(paths: Paths) -> tuple[int, int]:
    """Free the space of removed rows; return bytes before and after.

    Raises:
        RunError: runs are live, or the disk has no space for the copy that SQLite makes.
    """
    before = _store_bytes(paths.store)
    with Store(paths.store) as store:
        live = [run.id for run in store.live_runs() if effective_status(run).is_live]
        if live:
            raise RunError(f"runs are live: {listed(live)}", hint="wait, or stop them first")
        free = free_bytes(paths.home)
        if free < before * 2:
            raise RunError(
                f"vacuum temporarily needs {before * 2 / 2**20:,.0f} MiB, but only "
                f"{free / 2**20:,.0f} MiB are free",
                where=str(paths.home),
                hint="free some space first: kdharness store prune",
            )
        store.db.execute("VACUUM")
        store.db.execute("PRAGMA optimize")
        store.db.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchall()
    return before, _store_bytes(paths.store)


def backup(paths: Paths, target: Path) -> int:
    """Copy the store while other processes write to it; return the copy's bytes.

    Raises:
        StoreError: the target exists, or the copy is damaged.
    """
    if target.exists():
        raise StoreError("already exists", where=str(target), hint="choose a new file name")
    target.parent.mkdir(parents=True, exist_ok=True)
    with Store(paths.store) as store:
        copy = sqlite3.connect(target)
        try:
            store.db.conn.backup(copy)
            copy.execute("PRAGMA journal_mode=delete")
            report = copy.execute("PRAGMA quick_check(1)").fetchone()[0]
        finally:
            copy.close()
    if report != "ok":
        target.unlink()
        raise StoreError(
            f"the copy is damaged: {report}", where=str(paths.store), hint="kdharness store salvage"
        )
    sync_file(target)
    sync_folder(target.parent)
    return target.stat().st_size


# ---------------------------------------------------------------- prune


@dataclass(frozen=True)
class Prunable:
    """Something that can be removed: what it is, its path, and its size in bytes."""

    what: str
    path: Path
    bytes: int


def prunable(paths: Paths, *, steps: bool = True, cache: bool = False) -> list[Prunable]:
    """List what can be removed without losing a result, largest first.

    Args:
        paths: the home.
        steps: step checkpoints of finished runs (their final weights are kept).
        cache: teacher caches too; they are recomputed when needed.
    """
    found = []
    with Store(paths.store) as store:
        runs = store.runs()
    for run in runs:
        folder = paths.run(run.id)
        status = effective_status(run)
        if status.is_live or not folder.is_dir():
            continue
        for path in sorted(folder.glob("checkpoint-*")):
            partial = not is_sealed(path)
            if partial or (steps and status is RunStatus.FINISHED):
                found.append(
                    _prunable("half-written checkpoint" if partial else "step checkpoint", path)
                )
        found += [_prunable("leftover", path) for path in sorted(folder.glob(".final*"))]
        found += [_prunable("leftover", path) for path in sorted(folder.glob(".best*"))]
    if not any(effective_status(run).is_live for run in runs):
        for folder, pattern in (
            (paths.models, ".making-*"),
            (paths.models, ".converting-*"),
            (paths.assets, ".pulling-*"),
            (paths.runs, ".merging-*"),
            (paths.runs, ".removing-*"),
        ):
            found += [_prunable("leftover", path) for path in sorted(folder.glob(pattern))]
        if cache and paths.cache.is_dir():
            found += [_prunable("teacher cache", p) for p in sorted(paths.cache.iterdir())]
    return sorted(found, key=lambda item: -item.bytes)


def _prunable(what: str, path: Path) -> Prunable:
    return Prunable(what, path, folder_bytes(path))


def folder_bytes(path: Path) -> int:
    """Return the bytes of a file, or of all files below a folder."""
    if path.is_file():
        return path.stat().st_size
    return sum(p.stat().st_size for p in path.rglob("*") if p.is_file() and not p.is_symlink())


def remove(found: Sequence[Prunable]) -> int:
    """Remove the files and folders; return the bytes freed."""
    freed = 0
    for item in found:
        if item.path.is_dir() and not item.path.is_symlink():
            shutil.rmtree(item.path)
        else:
            item.path.unlink(missing_ok=True)
        freed += item.bytes
    return freed


# ---------------------------------------------------------------- archive


def archive(paths: Paths, names: Sequence[str], folder: Path, *, keep: bool) -> dict[str, int]:
    """Move runs, with their files and their checkpoints' answers and judgments, to another home.

    The archive is a home like any other: `kdharness --home FOLDER` opens it, and
    `kdharness store merge FOLDER --files` restores it.

    Args:
        paths: the home to move runs from.
        names: runs.
        folder: the archive; runs are added if it exists.
        keep: copy instead of move.

    Raises:
        RunError: no such run, or it is live.
        StoreError: the copy is incomplete; nothing was removed.
    """
    with Store(paths.store) as store:
        for name in names:
            run = find_run(store, name)
            if effective_status(run).is_live:
                raise RunError(f"{name} is live", hint=f"stop it first: kdharness stop {name}")
    archived = Paths(folder)
    with Store(archived.store) as target:
        counts = merge(target, paths.store, home=folder, files=True, runs=names)
        _verify(paths, archived, target, names)
        moved = {c.id: c.path for name in names for c in target.checkpoints(name)}
    if not keep:
        _forget(paths, archived, names, moved)
    return counts


def _verify(paths: Paths, archived: Paths, target: Store, names: Sequence[str]) -> None:
    for name in names:
        mine, theirs = paths.run(name), archived.run(name)
        if target.run(name) is None or (
            mine.is_dir() and folder_bytes(mine) != folder_bytes(theirs)
        ):
            raise StoreError(
                f"the copy of {name} is incomplete",
                where=str(archived.home),
                hint="nothing was removed; delete the archive and try again",
            )


def _forget(paths: Paths, archived: Paths, names: Sequence[str], moved: Mapping[str, str]) -> None:
    """Remove runs and what depends on them; checkpoints that stay point to the archive."""
    with Store(paths.store) as store, store.db.atomic():
        going = {c.id: c for name in names for c in store.checkpoints(name)}
        for key, path in moved_weights(paths, store, names, going).items():
            known = store.checkpoint(key)
            assert known is not None
            inside = Path(known.path).resolve().relative_to(paths.runs.resolve())
            store.set_checkpoint_path(key, path or str(archived.runs / inside))
        for kept in store.forget_runs(names):
            store.set_checkpoint_path(kept, moved.get(kept, ""))
    for name in names:
        shutil.rmtree(paths.run(name), ignore_errors=True)
