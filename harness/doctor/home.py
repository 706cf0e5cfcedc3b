"""Doctor: the home, the file system under it, the store, its runs, the settings and the assets.

The store is opened read-only, by SQLite itself: a store that this version refuses, or that is
damaged, has to be checked too, and a check must not migrate an older one.
"""

from __future__ import annotations

import os
import shutil
import sqlite3
import tempfile
import time
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

from kdharness.harness import assets
from kdharness.harness.config.settings import UserSettings, load_settings
from kdharness.harness.doctor.finding import CheckResult, fail, ok, warn
from kdharness.harness.errors import ConfigError
from kdharness.harness.paths import Paths
from kdharness.harness.runs.status import is_alive
from kdharness.harness.store.inspection import (
    applied_migrations,
    is_locked,
    live_runs,
    open_read_only,
    paths_outside,
    quick_check,
    sampled_checkpoints,
)
from kdharness.harness.store.migrations import migrations, unknown_steps
from kdharness.harness.types import RunStatus
from kdharness.harness.util import filesystem
from kdharness.harness.util.filesystem import free_bytes, nearest_existing
from kdharness.harness.util.text import listed

GIB = 2**30
HUNG_SECONDS = 600.0
AHEAD_SECONDS = 60.0
JOURNALS = ("wal", "delete", "truncate", "persist", "memory")


def run_checks(paths: Paths) -> list[CheckResult]:
    """Run every check of this module."""
    return [
        home(paths),
        disk(paths),
        file_system(paths),
        store(paths),
        *weights(paths),
        *runs(paths),
        settings(paths),
        *asset_folder(paths),
        *asset_files(paths),
    ]


def writable(path: Path) -> str:
    """Return why a file cannot be created there, or an empty string; tries, as modes mislead."""
    try:
        with tempfile.TemporaryFile(dir=nearest_existing(path)):
            return ""
    except OSError as error:
        return error.strerror or str(error)


# ---------------------------------------------------------------- home and disk


def home(paths: Paths) -> CheckResult:
    """Check that the store and the runs can be written."""
    reason = writable(paths.home)
    if reason:
        return fail(
            "home",
            f"{paths.home} is not writable: {reason}",
            "choose another folder: --home FOLDER or KDHARNESS_HOME",
        )
    return ok("home", str(paths.home))


def disk(paths: Paths) -> CheckResult:
    """Check for disk space and, on some file systems, free inodes."""
    folder = nearest_existing(paths.home)
    free = free_bytes(folder)
    text = f"{free / GIB:.1f} GiB free in the home"
    inodes = os.statvfs(folder).f_favail if hasattr(os, "statvfs") else 0
    advice = "free some space, or move the home: --home FOLDER; to estimate a run: kdharness plan "
    if free < GIB / 2:
        return fail("disk", text, advice + "CONFIG")
    if 0 < inodes < 1000:
        return fail(
            "disk",
            f"{text}, but only {inodes} free inodes",
            "delete small files on that disk",
        )
    if free < 5 * GIB:
        return warn("disk", text, advice + "CONFIG")
    return ok("disk", text)


def file_system(paths: Paths) -> CheckResult:
    """Check for network file systems, which lack the shared memory of SQLite's WAL."""
    wanted = os.environ.get("KDHARNESS_JOURNAL_MODE", "").lower()
    kind = filesystem.file_system(nearest_existing(paths.home))
    if wanted and wanted not in JOURNALS:
        return warn(
            "file system",
            f"KDHARNESS_JOURNAL_MODE={wanted} is not an SQLite journal mode; ignored",
            f"use one of {', '.join(JOURNALS)}, or unset it",
        )
    if kind in filesystem.NETWORK and wanted == "wal":
        return fail(
            "file system",
            f"KDHARNESS_JOURNAL_MODE=wal on {kind}, a network file system, corrupts stores",
            "unset KDHARNESS_JOURNAL_MODE, or set it to delete",
        )
    if kind in filesystem.NETWORK:
        return warn(
            "file system",
            f"{kind} is a network file system",
            "a local --home is faster; on this one the store uses journal mode delete (as with "
            "KDHARNESS_JOURNAL_MODE=delete): use it from one machine at a time",
        )
    return ok("file system", kind)


# ---------------------------------------------------------------- the store


def store(paths: Paths) -> CheckResult:
    """Check that the store is intact and that its migrations match this version."""
    path = paths.store
    if not path.exists():
        return ok("store", "none yet: created by the first run")
    try:
        with closing(open_read_only(path)) as connection:
            damage, complete = quick_check(connection, path.stat().st_size)
            applied = applied_migrations(connection)
    except sqlite3.Error as error:
        if is_locked(error):
            return warn(
                "store",
                f"{path} is locked by another process",
                "try again in a moment; if it stays locked, look for hung runs: kdharness runs",
            )
        return fail(
            "store",
            f"{path}: {error}",
            "nothing was changed; recover readable rows: kdharness store salvage",
        )
    if damage:
        return fail(
            "store",
            f"{path} is damaged: {damage}",
            "copy the file, then recover readable rows: kdharness store salvage",
        )
    size, older = path.stat().st_size / 2**20, 0
    if applied is None:
        return fail(
            "store",
            f"{path} is an SQLite file, but not a kdharness store",
            "move it away, or choose another --home",
        )
    if version := _shape(applied):
        return version
    with closing(open_read_only(path)) as connection:
        older = sampled_checkpoints(connection, paths.home)
    if older:
        return warn(
            "store",
            f"{older} checkpoints are identified by samples of their weights (older versions)",
            "hash all their bytes, once: kdharness store rehash",
        )
    return ok(
        "store",
        f"{size:.0f} MiB, "
        + (
            "intact"
            if complete
            else "opens; too large for a full check here: kdharness store check"
        ),
    )


def _shape(applied: list[str]) -> CheckResult | None:
    """Check whether another version wrote the store."""
    known = [migration.name for migration in migrations._migrations]
    newer = unknown_steps(applied)
    if newer:
        return fail(
            "store",
            f"written by a newer version of kdharness (migration {newer[-1]})",
            "pip install --upgrade kdharness, or choose another --home",
        )
    older = [name for name in known if name not in applied]
    if older:
        return warn(
            "store",
            f"of an older version: {len(older)} migration"
            f"{'s' if len(older) > 1 else ''} behind ({older[0]} …)",
            "it is migrated when next opened; copy kdharness.db first if an older kdharness must "
            "still read it",
        )
    return None


def weights(paths: Paths) -> list[CheckResult]:
    """Check whether runs and their weights are inside the home, so that a copy has them."""
    if not paths.store.exists():
        return []
    try:
        with closing(open_read_only(paths.store)) as connection:
            made, others = paths_outside(connection, paths.home)
    except sqlite3.Error:
        return []  # reported by the store's own row
    if made:
        return [
            warn(
                "weights",
                f"outside this home: {listed(made, 3)}",
                "a copy of this home does not have them, and they are lost with that folder; copy "
                "them from the home they are in: kdharness store merge OTHER_HOME --files",
            )
        ]
    models = f"; other models used: {listed(others, 3)}" if others else ""
    return [ok("weights", f"all runs are inside this home{models}")]


# ---------------------------------------------------------------- runs


def runs(paths: Paths) -> list[CheckResult]:
    """Check for runs whose process is gone, that hang, or whose clock ran ahead."""
    if not paths.store.exists():
        return []
    try:
        stored = list(live_runs(paths.store))
    except sqlite3.Error:
        return []  # reported by the store's own row
    now = time.time()
    results: list[CheckResult] = []
    gone = [run.id for run in stored if not is_alive(run)]
    hung = [
        run.id
        for run in stored
        if run.id not in gone
        and run.status is RunStatus.RUNNING
        and now - (run.heartbeat or now) > HUNG_SECONDS
    ]
    ahead = [run.id for run in stored if max(run.created, run.heartbeat or 0) > now + AHEAD_SECONDS]
    if gone:
        results.append(
            warn(
                "runs",
                f"interrupted: {listed(gone)}",
                f"continue from the last checkpoint: kdharness resume {gone[0]}",
            )
        )
    if hung:
        results.append(
            warn(
                "runs",
                f"no heartbeat for {HUNG_SECONDS / 60:.0f} minutes: {listed(hung)}",
                f"check kdharness logs {hung[0]}; then stop it: kdharness stop {hung[0]}",
            )
        )
    if ahead:
        results.append(
            warn(
                "runs",
                f"timestamps in the future: {listed(ahead)}: the clock was set back",
                "correct the clock (timedatectl set-ntp true); until then times and "
                "'interrupted' may be wrong",
            )
        )
    return results or [ok("runs", f"{len(stored)} in progress, none interrupted")]


# ---------------------------------------------------------------- settings and assets


def settings(paths: Paths) -> CheckResult:
    """Check that the settings file is readable and has only known keys."""
    known = ", ".join(sorted(UserSettings.model_fields))
    try:
        values = load_settings(paths)
    except ConfigError as error:
        first = error.message.splitlines()[0]
        return fail(
            "settings",
            f"{paths.settings}: {first}",
            f"fix or remove the file; known keys: {known}",
        )
    except OSError as error:
        return fail("settings", f"{paths.settings}: {error.strerror}", "make the file readable")
    program = values.notify.program(paths.home)
    if program and shutil.which(program) is None:
        return warn(
            "settings",
            f"notify: no program {program!r}",
            "no notification will be sent when a run ends: install it, or give its full path",
        )
    given = [name for name in UserSettings.model_fields if name in values.model_fields_set]
    return ok("settings", f"{', '.join(given)} set" if given else "none: using defaults")


def asset_folder(paths: Paths) -> list[CheckResult]:
    """Check that a shared assets folder exists and is writable."""
    if not os.environ.get("KDHARNESS_ASSETS"):
        return []
    reason = writable(paths.assets)
    if reason:
        return [
            fail(
                "assets",
                f"KDHARNESS_ASSETS={paths.assets} is not writable: {reason}",
                "set another folder, or unset it to keep assets in the home",
            )
        ]
    return [ok("assets", f"in {paths.assets}")]


def asset_files(paths: Paths) -> Iterator[CheckResult]:
    """Check each asset by its files' sizes; `kdharness data check` reads every byte."""
    for asset in assets.manifest().values():
        check, state = f"asset {asset.name}", assets.status(paths, asset)
        pull = f"kdharness data pull {asset.name}"
        if state == "pulled":
            yield ok(check, state)
        elif state == "missing":
            yield warn(check, "not pulled", f"if you need it: {pull}")
        else:
            yield fail(check, "damaged: files are missing or have the wrong size", pull)
