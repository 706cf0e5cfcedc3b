"""Looking after a store: check it, shrink it, copy it, take runs out of it.

None of this is needed from day to day. What removes anything says first what it would remove.
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
from kdharness.harness.maintenance.salvage import JSON_COLUMNS, TABLES
from kdharness.harness.paths import Paths
from kdharness.harness.runs.status import effective_status, find_run
from kdharness.harness.store import Store
from kdharness.harness.types import RunStatus
from kdharness.harness.util.atomic import is_sealed, sync_file, sync_folder


def check(paths: Paths) -> list[dict[str, Any]]:
    """One row a finding: what was looked at, `ok`, `note` or `broken`, and the detail.

    Reads every page of the file. Raises StoreError when it cannot even be opened.
    """
    with Store(paths.store) as store:
        found = [row[0] for row in store.db.execute("PRAGMA integrity_check(20)").fetchall()]
        whole = found == ["ok"]
        rows = [_finding("file", "ok" if whole else "broken", "; ".join(found)[:500])]
        if not whole:
            return rows
        counts = {
            name: store.db.execute(f"SELECT COUNT(*) FROM {name}").fetchone()[0] for name in TABLES
        }
        size = _store_bytes(paths.store) / 2**20
        listed = ", ".join(f"{count:,} {name}" for name, count in counts.items())
        rows.append(_finding("rows", "ok", f"{size:,.1f} MiB: {listed}"))
        bad_rows = [
            _finding(table, "broken", f"{bad} rows hold unreadable JSON in {column}")
            for table, column, bad in _bad_json(store)
        ]
        if bad_rows:
            return rows + bad_rows
        lost = [
            checkpoint.name
            for checkpoint in store.checkpoints()
            if checkpoint.path and not Path(checkpoint.path).exists()
        ]
        rows.append(
            _finding(
                "weights",
                "note" if lost else "ok",
                f"not where the store says: {_some(lost)}" if lost else "all there",
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
                f"verdicts of unknown checkpoints: {_some(orphans)}"
                if orphans
                else "every verdict has its checkpoint",
            )
        )
        gone = [run.id for run in store.runs() if effective_status(run) is RunStatus.INTERRUPTED]
        rows.append(
            _finding(
                "runs",
                "note" if gone else "ok",
                f"interrupted, can be resumed: {_some(gone)}" if gone else "none is interrupted",
            )
        )
    return rows


def _finding(check: str, status: str, detail: str) -> dict[str, Any]:
    return {"check": check, "status": status, "detail": detail}


def _some(names: Sequence[str], limit: int = 5) -> str:
    more = f" and {len(names) - limit} more" if len(names) > limit else ""
    return ", ".join(names[:limit]) + more


def _bad_json(store: Store) -> Iterator[tuple[str, str, int]]:
    for table, columns in JSON_COLUMNS.items():
        for column in columns:
            bad = store.db.execute(
                f"SELECT COUNT(*) FROM {table} WHERE NOT json_valid({column})"
            ).fetchone()[0]
            if bad:
                yield table, column, bad


def _store_bytes(path: Path) -> int:
    parts = [path.with_name(path.name + suffix) for suffix in ("", "-wal")]
    return sum(part.stat().st_size for part in parts if part.exists())


# ---------------------------------------------------------------- shrink and copy


def vacuum(paths: Paths) -> tuple[int, int]:
    """Give back the room of removed rows; returns bytes before and after.

    Raises:
        RunError: runs are live, or the disk has no room for the second copy SQLite makes.
    """
    before = _store_bytes(paths.store)
    with Store(paths.store) as store:
        live = [run.id for run in store.live_runs() if effective_status(run).is_live]
        if live:
            raise RunError(f"these runs are live: {_some(live)}", hint="wait, or stop them first")
        free = shutil.disk_usage(paths.home).free
        if free < before * 2:
            raise RunError(
                f"vacuum needs {before * 2 / 2**20:,.0f} MiB for a while; {free / 2**20:,.0f} "
                "are free",
                where=str(paths.home),
                hint="kdharness store prune frees files first",
            )
        store.db.execute("VACUUM")
        store.db.execute("PRAGMA optimize")
        store.db.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchall()
    return before, _store_bytes(paths.store)


def backup(paths: Paths, target: Path) -> int:
    """Copy the store while others go on writing to it; returns the copy's bytes.

    Raises:
        StoreError: the target exists, or what was copied is damaged.
    """
    if target.exists():
        raise StoreError("this exists", where=str(target), hint="name a file that does not exist")
    target.parent.mkdir(parents=True, exist_ok=True)
    with Store(paths.store) as store:
        copy = sqlite3.connect(target)
        try:
            store.db.conn.backup(copy)
            copy.execute("PRAGMA journal_mode=delete")
            found = copy.execute("PRAGMA quick_check(1)").fetchone()[0]
        finally:
            copy.close()
    if found != "ok":
        target.unlink()
        raise StoreError(
            f"the copy is damaged: {found}", where=str(paths.store), hint="kdharness store salvage"
        )
    sync_file(target)
    sync_folder(target.parent)
    return target.stat().st_size


# ---------------------------------------------------------------- prune


@dataclass(frozen=True)
class Waste:
    """Something that can go: what it is, where, and its size in bytes."""

    what: str
    path: Path
    bytes: int


def waste(paths: Paths, *, steps: bool = True, cache: bool = False) -> list[Waste]:
    """What can go without losing a result, largest first.

    Args:
        paths: the home.
        steps: step checkpoints of finished runs (their final weights stay).
        cache: teachers' distributions too; they are made again when needed.
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
            torn = not is_sealed(path)
            if torn or (steps and status is RunStatus.FINISHED):
                found.append(_waste("half-written checkpoint" if torn else "step checkpoint", path))
        found += [_waste("leftover", path) for path in sorted(folder.glob(".final*"))]
        found += [_waste("leftover", path) for path in sorted(folder.glob(".best*"))]
    if not any(effective_status(run).is_live for run in runs):
        for place, pattern in (
            (paths.models, ".making-*"),
            (paths.models, ".converting-*"),
            (paths.assets, ".pulling-*"),
            (paths.runs, ".merging-*"),
        ):
            found += [_waste("leftover", path) for path in sorted(place.glob(pattern))]
        if cache and paths.cache.is_dir():
            found += [_waste("teacher cache", p) for p in sorted(paths.cache.iterdir())]
    return sorted(found, key=lambda one: -one.bytes)


def _waste(what: str, path: Path) -> Waste:
    return Waste(what, path, folder_bytes(path))


def folder_bytes(path: Path) -> int:
    """Bytes of a file, or of all files below a folder."""
    if path.is_file():
        return path.stat().st_size
    return sum(p.stat().st_size for p in path.rglob("*") if p.is_file() and not p.is_symlink())


def remove(found: Sequence[Waste]) -> int:
    """Remove it; returns the bytes freed."""
    freed = 0
    for one in found:
        if one.path.is_dir() and not one.path.is_symlink():
            shutil.rmtree(one.path)
        else:
            one.path.unlink(missing_ok=True)
        freed += one.bytes
    return freed


# ---------------------------------------------------------------- archive


def archive(paths: Paths, names: Sequence[str], folder: Path, *, keep: bool) -> dict[str, int]:
    """Move runs, with their files and all that was said of their checkpoints, to a home of theirs.

    The archive is a home like any other: `kdharness --home FOLDER` opens it, and
    `kdharness store merge FOLDER --files` brings it back.

    Args:
        paths: the home they leave.
        names: runs.
        folder: the archive; runs are added to one that exists.
        keep: only copy.

    Raises:
        RunError: no such run, or it is live.
        StoreError: not everything arrived; nothing was removed then.
    """
    with Store(paths.store) as store:
        for name in names:
            run = find_run(store, name)
            if effective_status(run).is_live:
                raise RunError(f"{name} is live", hint=f"stop it first: kdharness stop {name}")
    there = Paths(folder)
    with Store(there.store) as target:
        counts = merge(target, paths.store, home=folder, files=True, runs=names)
        _verify(paths, there, target, names)
        moved = {c.id: c.path for name in names for c in target.checkpoints(name)}
    if not keep:
        _forget(paths, names, moved)
    return counts


def _verify(paths: Paths, there: Paths, target: Store, names: Sequence[str]) -> None:
    for name in names:
        mine, theirs = paths.run(name), there.run(name)
        if target.run(name) is None or (
            mine.is_dir() and folder_bytes(mine) != folder_bytes(theirs)
        ):
            raise StoreError(
                f"{name} did not arrive whole",
                where=str(there.home),
                hint="nothing was removed; remove the archive and try again",
            )


def _forget(paths: Paths, names: Sequence[str], moved: Mapping[str, str]) -> None:
    """Remove runs and all that hangs on them; parents of what stays are known in the archive."""
    with Store(paths.store) as store:
        for kept in store.forget_runs(names):
            store.set_checkpoint_path(kept, moved.get(kept, ""))
    for name in names:
        shutil.rmtree(paths.run(name), ignore_errors=True)
