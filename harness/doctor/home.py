"""Doctor: the home, the file system under it, the store, its runs, the settings and the assets.

The store is opened for reading alone, by SQLite itself: a store that this version refuses, or
that is damaged, is just what has to be looked at here, and looking must not upgrade an older one.
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
    quick_check,
    sampled_checkpoints,
)
from kdharness.harness.store.migrations import migrations, unknown_steps
from kdharness.harness.types import RunStatus
from kdharness.harness.util import filesystem
from kdharness.harness.util.filesystem import nearest

GIB = 2**30
"""How long the store's pages are read for; a big store's full check is `kdharness store check`."""
HUNG_SECONDS = 600.0
AHEAD_SECONDS = 60.0
JOURNALS = ("wal", "delete", "truncate", "persist", "memory")


def run_checks(paths: Paths) -> list[CheckResult]:
    """Every finding of this file."""
    return [
        home(paths),
        disk(paths),
        file_system(paths),
        store(paths),
        *runs(paths),
        settings(paths),
        *asset_folder(paths),
        *asset_files(paths),
    ]


def writable(place: Path) -> str:
    """Empty when a file can be made there, else the reason: permission bits tell only half."""
    try:
        with tempfile.TemporaryFile(dir=nearest(place)):
            return ""
    except OSError as error:
        return error.strerror or str(error)


# ---------------------------------------------------------------- where things lie


def home(paths: Paths) -> CheckResult:
    """Whether the store and the runs can be written."""
    reason = writable(paths.home)
    if reason:
        return fail(
            "home",
            f"{paths.home} cannot be written: {reason}",
            "choose another place: --home FOLDER or KDHARNESS_HOME",
        )
    return ok("home", str(paths.home))


def disk(paths: Paths) -> CheckResult:
    """Room for checkpoints: bytes and, on some file systems, entries."""
    place = nearest(paths.home)
    free = shutil.disk_usage(place).free
    text = f"{free / GIB:.1f} GiB free under the home"
    entries = os.statvfs(place).f_favail if hasattr(os, "statvfs") else 0
    advice = "free some, or move the home: --home FOLDER; kdharness plan CONFIG tells what a run "
    if free < GIB / 2:
        return fail("disk", text, advice + "takes")
    if 0 < entries < 1000:
        return fail(
            "disk",
            f"{text}, but room for only {entries} more files",
            "delete many small files on that disk",
        )
    if free < 5 * GIB:
        return warn("disk", text, advice + "takes")
    return ok("disk", text)


def file_system(paths: Paths) -> CheckResult:
    """SQLite's WAL needs shared memory between processes, which network file systems lack."""
    wanted = os.environ.get("KDHARNESS_JOURNAL_MODE", "").lower()
    kind = filesystem.file_system(nearest(paths.home))
    if wanted and wanted not in JOURNALS:
        return warn(
            "file system",
            f"KDHARNESS_JOURNAL_MODE={wanted} is none SQLite knows; ignored",
            f"use one of {', '.join(JOURNALS)}, or unset it",
        )
    if kind in filesystem.NETWORK and wanted == "wal":
        return fail(
            "file system",
            f"KDHARNESS_JOURNAL_MODE=wal on {kind}, a network file system, damages stores",
            "unset KDHARNESS_JOURNAL_MODE, or set it to delete",
        )
    if kind in filesystem.NETWORK:
        return warn(
            "file system",
            f"{kind} is a network file system",
            "KDHARNESS_JOURNAL_MODE=delete keeps the store safe there; a local --home is "
            "faster, and one machine at a time is safest",
        )
    return ok("file system", kind)


# ---------------------------------------------------------------- the store


def store(paths: Paths) -> CheckResult:
    """Whether the store is whole, and of this version's shape."""
    path = paths.store
    if not path.exists():
        return ok("store", "none yet: made by the first run")
    try:
        with closing(open_read_only(path)) as connection:
            complaint, whole = quick_check(connection, path.stat().st_size)
            applied = applied_migrations(connection)
    except sqlite3.Error as error:
        if is_locked(error):
            return warn(
                "store",
                f"{path} is held by another process",
                "look again in a moment; if it stays so, see kdharness runs for what hangs",
            )
        return fail(
            "store",
            f"{path}: {error}",
            "nothing was changed; save what can be saved: kdharness store salvage",
        )
    if complaint:
        return fail(
            "store",
            f"{path} is damaged: {complaint}",
            "copy the file, then save what can be saved: kdharness store salvage",
        )
    size, older = path.stat().st_size / 2**20, 0
    if applied is None:
        return fail(
            "store",
            f"{path} is an SQLite file, but not a store of kdharness",
            "move it away, or choose another --home",
        )
    if shape := _shape(applied):
        return shape
    with closing(open_read_only(path)) as connection:
        older = sampled_checkpoints(connection)
    if older:
        return warn(
            "store",
            f"{older} checkpoints are known by samples of their weights, as older versions did",
            "kdharness store rehash reads them whole, once",
        )
    return ok(
        "store",
        f"{size:.0f} MiB, "
        + (
            "whole" if whole else "it opens; too big to be read through here: kdharness store check"
        ),
    )


def _shape(applied: list[str]) -> CheckResult | None:
    """A store of another version."""
    known = [migration.name for migration in migrations._migrations]
    newer = unknown_steps(applied)
    if newer:
        return fail(
            "store",
            f"a newer version of kdharness wrote it (step {newer[-1]})",
            "pip install --upgrade kdharness, or choose another --home",
        )
    older = [name for name in known if name not in applied]
    if older:
        return warn(
            "store",
            f"of an older version: {len(older)} step"
            f"{'s' if len(older) > 1 else ''} behind ({older[0]} …)",
            "it is brought up to date when next opened; copy kdharness.db first if an "
            "older kdharness must still read it",
        )
    return None


# ---------------------------------------------------------------- runs


def runs(paths: Paths) -> list[CheckResult]:
    """Runs whose process is gone, that no longer answer, or whose clock ran ahead."""
    if not paths.store.exists():
        return []
    try:
        stored = list(live_runs(paths.store))
    except sqlite3.Error:
        return []  # the store's own row says why
    now = time.time()
    found: list[CheckResult] = []
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
        found.append(
            warn(
                "runs",
                f"interrupted: {_some(gone)}",
                f"go on from the last checkpoint: kdharness resume {gone[0]}",
            )
        )
    if hung:
        found.append(
            warn(
                "runs",
                f"no sign of life for {HUNG_SECONDS / 60:.0f} minutes: {_some(hung)}",
                f"look: kdharness logs {hung[0]}; then stop it: kdharness stop {hung[0]}",
            )
        )
    if ahead:
        found.append(
            warn(
                "runs",
                f"written in the future: {_some(ahead)}: the clock went back",
                "set the clock right (timedatectl set-ntp true); until then times and "
                "'interrupted' may be wrong",
            )
        )
    return found or [ok("runs", f"{len(stored)} under way, none interrupted")]


def _some(names: list[str]) -> str:
    rest = f" and {len(names) - 5} more" if len(names) > 5 else ""
    return ", ".join(names[:5]) + rest


# ---------------------------------------------------------------- settings and assets


def settings(paths: Paths) -> CheckResult:
    """The settings file: readable, and with keys that something reads."""
    known = ", ".join(sorted(UserSettings.model_fields))
    try:
        values = load_settings(paths)
    except ConfigError as error:
        first = error.message.splitlines()[0]
        return fail(
            "settings", f"{paths.settings}: {first}", f"fix or remove the file; its keys: {known}"
        )
    except OSError as error:
        return fail(
            "settings", f"{paths.settings}: {error.strerror}", "make the file readable for you"
        )
    given = [name for name in UserSettings.model_fields if name in values.model_fields_set]
    return ok("settings", f"{', '.join(given)} set" if given else "none: defaults are used")


def asset_folder(paths: Paths) -> list[CheckResult]:
    """A shared folder of assets that is not there or cannot be written."""
    if not os.environ.get("KDHARNESS_ASSETS"):
        return []
    reason = writable(paths.assets)
    if reason:
        return [
            fail(
                "assets",
                f"KDHARNESS_ASSETS={paths.assets} cannot be written: {reason}",
                "name another folder, or unset it to keep assets in the home",
            )
        ]
    return [ok("assets", f"in {paths.assets}")]


def asset_files(paths: Paths) -> Iterator[CheckResult]:
    """Each asset by its files' sizes; `kdharness data check` reads every byte."""
    for asset in assets.manifest().values():
        check, state = f"asset {asset.name}", assets.status(paths, asset)
        pull = f"kdharness data pull {asset.name}"
        if state == "pulled":
            yield ok(check, state)
        elif state == "missing":
            yield warn(check, "not pulled", f"when you need it: {pull}")
        else:
            yield fail(check, "damaged: files are missing or of the wrong size", pull)
