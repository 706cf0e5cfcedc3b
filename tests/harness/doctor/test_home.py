"""The doctor's checks of the home: location, store, runs, settings and assets."""

from __future__ import annotations

import os
import sqlite3
import subprocess
import sys
import time
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest

from kdharness.harness import assets
from kdharness.harness.doctor import home
from kdharness.harness.paths import Paths
from kdharness.harness.store import Store, inspection
from kdharness.harness.types import Run, RunStatus
from kdharness.harness.util import filesystem
from support.doctor import Env, one, says

# ---------------------------------------------------------------- home and file system


def test_unwritable_home(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("", "utf-8")
    says(
        home.home(Paths(tmp_path / "file" / "home")),
        "broken",
        "is not writable",
        "--home FOLDER",
    )
    says(
        home.home(Paths(Path("/proc/kdharness"))),
        "broken",
        "is not writable",
        "KDHARNESS_HOME",
    )
    assert home.home(Paths(tmp_path / "new" / "home")).status == "ok"
    assert not (tmp_path / "new").exists()


@pytest.fixture
def home_on_nfs(paths: Paths, tmp_path: Path, monkeypatch: Env) -> None:
    """Make the home appear as an NFS mount in the mount table."""
    listing = tmp_path / "mounts"
    listing.write_text(f"/dev/sda1 / ext4 rw 0 0\nserver:/x {tmp_path} nfs4 rw 0 0\n", "utf-8")
    monkeypatch.setattr(filesystem, "MOUNTS", listing)


def test_network_file_system(paths: Paths, home_on_nfs: None, monkeypatch: Env) -> None:
    says(home.file_system(paths), "note", "nfs4", "KDHARNESS_JOURNAL_MODE=delete")
    monkeypatch.setenv("KDHARNESS_JOURNAL_MODE", "wal")
    says(home.file_system(paths), "broken", "corrupts stores", "unset KDHARNESS_JOURNAL_MODE")
    monkeypatch.setenv("KDHARNESS_JOURNAL_MODE", "wall")
    says(home.file_system(paths), "note", "ignored", "wal, delete")


# ---------------------------------------------------------------- store and runs


@pytest.fixture
def home_with_store(paths: Paths) -> Paths:
    with Store(paths.store):
        pass
    return paths


def execute_sql(paths: Paths, sql: str) -> None:
    with closing(sqlite3.connect(paths.store)) as connection:
        connection.execute(sql)
        connection.commit()


def test_intact_store(home_with_store: Paths) -> None:
    before = home_with_store.store.read_bytes()
    says(home.store(home_with_store), "ok", "intact", "")
    assert home_with_store.store.read_bytes() == before


def test_no_store_yet(paths: Paths) -> None:
    says(home.store(paths), "ok", "none yet", "")
    assert not paths.home.exists()


def test_store_of_a_newer_version(home_with_store: Paths) -> None:
    execute_sql(
        home_with_store,
        "INSERT INTO _sqlite_migrations (migration_set, name, applied_at) "
        "VALUES ('kdharness', 'm999_later', '2030-01-01')",
    )
    says(home.store(home_with_store), "broken", "m999_later", "pip install --upgrade kdharness")


def test_store_of_an_older_version(home_with_store: Paths) -> None:
    execute_sql(home_with_store, "DELETE FROM _sqlite_migrations WHERE name = 'm004_scored_facts'")
    says(home.store(home_with_store), "note", "1 migration behind", "copy kdharness.db first")
    with closing(sqlite3.connect(home_with_store.store)) as connection:
        names = [row[0] for row in connection.execute("SELECT name FROM _sqlite_migrations")]
    assert "m004_scored_facts" not in names, "looking must not upgrade"


def test_damaged_store(home_with_store: Paths) -> None:
    execute_sql(home_with_store, "PRAGMA journal_mode=delete")
    data = bytearray(home_with_store.store.read_bytes())
    data[4096 * 2 : 4096 * 8] = b"\xa5" * (4096 * 6)
    home_with_store.store.write_bytes(bytes(data))
    says(
        home.store(home_with_store), "broken", str(home_with_store.store), "kdharness store salvage"
    )


def test_store_that_is_not_a_database(paths: Paths) -> None:
    paths.home.mkdir()
    paths.store.write_text("not a database at all, but long enough to be read" * 40, "utf-8")
    says(home.store(paths), "broken", "not a database", "kdharness store salvage")
    assert [row.status for row in home.runs(paths)] == []


def test_store_locked_by_another_process(home_with_store: Paths, monkeypatch: Env) -> None:
    execute_sql(home_with_store, "PRAGMA journal_mode=delete")
    real = sqlite3.connect
    monkeypatch.setattr(sqlite3, "connect", lambda *a, **k: real(*a, **{**k, "timeout": 0.05}))
    with closing(real(home_with_store.store, isolation_level=None)) as other:
        other.execute("BEGIN EXCLUSIVE")
        says(home.store(home_with_store), "note", "locked by another process", "try again")
    assert home.store(home_with_store).status == "ok"


def test_database_of_another_application(paths: Paths) -> None:
    paths.home.mkdir()
    execute_sql(paths, "CREATE TABLE photos (id)")
    says(home.store(paths), "broken", "not a kdharness store", "another --home")


def test_store_too_large_for_a_full_check(home_with_store: Paths, monkeypatch: Env) -> None:
    monkeypatch.setattr(inspection, "CHECK_BYTES", 1000)
    says(home.store(home_with_store), "ok", "kdharness store check", "")


def add_run(paths: Paths, name: str, **values: Any) -> None:
    run: dict[str, Any] = {
        "id": name,
        "method": "kd",
        "status": RunStatus.RUNNING,
        "config": {},
        "config_hash": "",
        "folder": "",
        "created": time.time() - 900,
    }
    with Store(paths.store) as store:
        store.add_run(Run(**{**run, **values}))


def test_interrupted_run(home_with_store: Paths) -> None:
    exited = subprocess.Popen([sys.executable, "-c", ""])
    exited.wait()
    add_run(
        home_with_store, "kd-gone", pid=exited.pid, pid_started=1.0, heartbeat=time.time() - 800
    )
    add_run(home_with_store, "kd-done", status=RunStatus.FINISHED)
    (row,) = home.runs(home_with_store)
    says(row, "note", "interrupted: kd-gone", "kdharness resume kd-gone")


def test_hung_run(home_with_store: Paths) -> None:
    from kdharness.harness.runs.status import process_started

    began = process_started(os.getpid())
    add_run(
        home_with_store, "kd-hung", pid=os.getpid(), pid_started=began, heartbeat=time.time() - 700
    )
    (row,) = home.runs(home_with_store)
    says(row, "note", "no heartbeat for 10 minutes: kd-hung", "kdharness stop kd-hung")


def test_run_with_timestamps_in_the_future(home_with_store: Paths) -> None:
    add_run(home_with_store, "kd-later", host="elsewhere", pid=1, heartbeat=time.time() + 7200)
    row = home.runs(home_with_store)[-1]
    says(row, "note", "timestamps in the future: kd-later", "correct the clock")


def test_run_in_progress_is_ok(home_with_store: Paths) -> None:
    add_run(home_with_store, "kd-here", pid=os.getpid(), heartbeat=time.time())
    (row,) = home.runs(home_with_store)
    says(row, "ok", "1 in progress", "")


# ---------------------------------------------------------------- settings and assets


@pytest.mark.parametrize(
    ("text", "status", "detail"),
    [
        ("judge: [", "broken", "settings.yaml: "),
        ("- a\n", "broken", "must be a mapping"),
        ("juge: openai:x\n", "broken", "juge: unknown field; did you mean judge"),
        ("prices: {m: {input: cheap, output: 1}}\n", "broken", "prices.m.input"),
        ("theme: light\n", "ok", "theme set"),
        ("keep: 0.9\ngroup: status\ncolumns: {first: [a:b]}\n", "ok", "keep, group, columns set"),
        ("notify: sh {run}\nalerts: loss > 5\n", "ok", "notify, alerts set"),
        ("alerts: [loss climbs]\n", "broken", "'loss climbs' is not a rule on a curve"),
    ],
)
def test_settings(paths: Paths, text: str, status: str, detail: str) -> None:
    paths.home.mkdir()
    paths.settings.write_text(text, "utf-8")
    says(home.settings(paths), status, detail, "" if status == "ok" else "judge, keep, keys")


@pytest.mark.parametrize("program", ["no-such-program", "./tell.sh", "~/no/tell"])
def test_a_notify_command_that_is_not_there_is_told_before_a_run_ends(
    paths: Paths, program: str
) -> None:
    paths.home.mkdir()
    paths.settings.write_text(f"notify: {program} now\n", "utf-8")
    says(home.settings(paths), "note", "notify: no program", "no notification will be sent")
    (paths.home / "tell.sh").write_text("#!/bin/sh\n")
    (paths.home / "tell.sh").chmod(0o755)
    paths.settings.write_text("notify: ./tell.sh now\n", "utf-8")
    says(home.settings(paths), "ok", "notify set", "")


def test_assets(paths: Paths, tmp_path: Path, monkeypatch: Env) -> None:
    asset = next(iter(assets.manifest().values()))
    says(
        one(home.asset_files(paths), f"asset {asset.name}"),
        "note",
        "not pulled",
        f"kdharness data pull {asset.name}",
    )
    (paths.assets / asset.name).mkdir(parents=True)
    says(
        one(home.asset_files(paths), f"asset {asset.name}"),
        "broken",
        "damaged",
        f"kdharness data pull {asset.name}",
    )
    monkeypatch.setenv("KDHARNESS_ASSETS", "/proc/assets")
    says(one(home.asset_folder(paths), "assets"), "broken", "is not writable", "unset it")
