"""What machines do to stores: no permission, full disks, locks, networks."""

from __future__ import annotations

import os
import sqlite3
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from kdharness.harness.errors import StoreError
from kdharness.harness.paths import Paths
from kdharness.harness.store import Store
from kdharness.harness.util import filesystem
from kdharness.harness.util.os_errors import as_user_error
from support.store_rows import contents, fill_store

NOBODY = 65534


# ---------------------------------------------------------------- permission


def as_nobody(work: Callable[[], None]) -> str:
    """Do something as a user who owns nothing; returns what it raised, or nothing.

    Root may write anywhere, so a test run by root has to step down; modules are loaded before.
    """
    reading, writing = os.pipe()
    child = os.fork()
    if child == 0:
        text = ""
        try:
            if os.getuid() == 0:
                os.setgroups([])
                os.setgid(NOBODY)
                os.setuid(NOBODY)
            work()
        except BaseException as error:
            text = f"{type(error).__name__}: {error}"
        os.write(writing, text.encode() or b"-")
        os._exit(0)
    os.close(writing)
    with os.fdopen(reading, "rb") as stream:
        text = stream.read().decode()
    os.waitpid(child, 0)
    return "" if text == "-" else text


@pytest.fixture
def shared_home() -> Iterator[Paths]:
    """A home that others may look at, in a place that they can reach."""
    with tempfile.TemporaryDirectory(dir="/tmp") as folder:
        os.chmod(folder, 0o755)
        paths = Paths(Path(folder) / "home")
        fill_store(paths.store)
        for path in [paths.home, *paths.home.rglob("*")]:
            path.chmod(0o555 if path.is_dir() else 0o444)
        yield paths
        paths.home.chmod(0o755)


def test_a_home_that_cannot_be_written_can_be_read(shared_home: Paths, tmp_path: Path) -> None:
    from kdharness.harness.analysis.leaderboard import leaderboard

    # Modules are loaded as they are needed, and nobody may look into root's folders.
    fill_store(tmp_path / "kdharness.db", runs=1)
    with Store(tmp_path / "kdharness.db") as store:
        assert leaderboard(store)

    def look() -> None:
        with Store(shared_home.store) as store:
            assert store.read_only
            assert len(store.runs()) == 3 and len(store.judgments()) == 60
            assert {score.checkpoint for score in leaderboard(store)} == {"kd-0", "kd-1", "kd-2"}

    assert as_nobody(look) == ""


def test_a_home_that_cannot_be_written_can_be_merged_from(shared_home: Paths) -> None:
    """SQLite makes files beside a store in WAL mode, even to read it."""
    from kdharness.harness.maintenance.merge import merge

    def bring() -> None:
        with (
            tempfile.TemporaryDirectory(dir="/tmp") as folder,
            Store(Path(folder) / "kdharness.db") as store,
        ):
            assert merge(store, shared_home.store)["checkpoints"] == 3
            assert merge(store, shared_home.store)["checkpoints"] == 0

    assert as_nobody(bring) == ""


def test_writing_where_one_may_not_is_told(shared_home: Paths) -> None:
    def write() -> None:
        with Store(shared_home.store) as store:
            try:
                store.add_event("kd-0", "note", "x")
            except sqlite3.Error as error:
                found = as_user_error(error, shared_home.home)
                assert found is not None
                raise found from error

    said = as_nobody(write)
    assert said.startswith("StoreError") and "not writable" in said and "--home" in said


def test_a_home_that_cannot_be_made_is_told(shared_home: Paths) -> None:
    def make() -> None:
        Store(shared_home.home / "new" / "kdharness.db")

    said = as_nobody(make)
    assert said.startswith("StoreError") and "ermission" in said and "--home" in said


# ---------------------------------------------------------------- a full disk

LIMITED = """
import resource, sys
from kdharness.harness.cli import run
resource.setrlimit(resource.RLIMIT_FSIZE, (int(sys.argv[1]), int(sys.argv[1])))
sys.exit(run(sys.argv[2:]))
"""


def run_with_file_limit(size: int, *args: str) -> tuple[int, str]:
    """The command line where no file may grow past `size` bytes, as under a quota."""
    done = subprocess.run(
        [sys.executable, "-c", LIMITED, str(size), *args],
        capture_output=True,
        text=True,
        timeout=120,
    )
    return done.returncode, done.stderr


def test_no_room_for_the_store_is_told_and_nothing_is_lost(paths: Paths, tmp_path: Path) -> None:
    fill_store(paths.store)
    source = tmp_path / "other"
    fill_store(source / "kdharness.db", host="there", runs=6, items=100, words=200)
    before = contents(paths.store)
    size = paths.store.stat().st_size + 200_000
    code, err = run_with_file_limit(size, "--home", str(paths.home), "store", "merge", str(source))
    assert code == 1 and "the disk is full" in err and "Traceback" not in err, err
    assert contents(paths.store) == before
    with Store(paths.store) as store:
        assert store.db.execute("PRAGMA integrity_check").fetchone() == ("ok",)
    # With room again, the same command does it.
    from kdharness.harness import cli

    assert cli.run(["--home", str(paths.home), "store", "merge", str(source)]) == 0
    with Store(paths.store) as store:
        assert len(store.judgments()) == 60 + 600


def test_a_full_store_says_so(paths: Paths) -> None:
    fill_store(paths.store, runs=1)
    with Store(paths.store) as store:
        pages = store.db.execute("PRAGMA page_count").fetchone()[0]
        store.db.execute(f"PRAGMA max_page_count={pages}")
        with pytest.raises(sqlite3.OperationalError, match="full") as caught:
            store.add_event("kd-0", "note", "x" * 100_000)
        found = as_user_error(caught.value, paths.home)
        assert found is not None and "the disk is full" in str(found) and "resume" in str(found)
        assert len(store.events("kd-0")) == 2


@pytest.mark.parametrize(
    "error",
    [
        OSError(28, "No space left on device"),
        OSError(122, "Disk quota exceeded"),
        RuntimeError("Error while serializing: I/O error: No space left on device (os error 28)"),
    ],
)
def test_full_disks_speak_many_languages(error: Exception, tmp_path: Path) -> None:
    found = as_user_error(error, tmp_path)
    assert found is not None and "the disk is full" in str(found)


def test_our_own_faults_stay_ours(tmp_path: Path) -> None:
    wrong = sqlite3.connect(":memory:")
    with pytest.raises(sqlite3.OperationalError) as caught:
        wrong.execute("SELECT nothing FROM nowhere")
    for error in (caught.value, ValueError("no"), KeyError("k"), RuntimeError("cannot write")):
        assert as_user_error(error, tmp_path) is None


# ---------------------------------------------------------------- locks and two of everything


def test_a_store_that_stays_locked_is_told(paths: Paths) -> None:
    fill_store(paths.store, runs=1)
    holder = sqlite3.connect(paths.store)
    holder.execute("BEGIN IMMEDIATE")
    with Store(paths.store, timeout=0.2) as store:
        assert store.run("kd-0") is not None
        with pytest.raises(sqlite3.OperationalError) as caught:
            store.add_event("kd-0", "note", "x")
        found = as_user_error(caught.value, paths.home)
        assert isinstance(found, StoreError) and "locked" in str(found)
        holder.rollback()
        store.add_event("kd-0", "note", "x")


# ---------------------------------------------------------------- networks


@pytest.fixture
def on_nfs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The system's table of mounts, with a network share at a place whose name has a blank."""
    share = tmp_path / "the share"
    share.mkdir()
    table = tmp_path / "mounts"
    shown = str(share).replace(" ", "\\040")
    table.write_text(f"/dev/vda / ext4 rw 0 0\nserver:/x {shown} nfs4 rw 0 0\n")
    monkeypatch.setattr(filesystem, "MOUNTS", table)
    return share


def test_a_store_on_a_network_does_without_shared_memory(
    on_nfs: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert filesystem.is_network(on_nfs / "deep" / "down") and not filesystem.is_network(tmp_path)
    assert not filesystem.is_network(tmp_path / "the share too")

    def mode(path: Path) -> str:
        fill_store(path, runs=1)
        assert len(contents(path)["runs"]) == 1
        return str(sqlite3.connect(path).execute("PRAGMA journal_mode").fetchone()[0])

    assert mode(on_nfs / "kdharness.db") == "delete"
    assert mode(tmp_path / "kdharness.db") == "wal"
    monkeypatch.setenv("KDHARNESS_JOURNAL_MODE", "truncate")
    # What the user says counts; truncate is of one connection, and delete of the file.
    assert Store(on_nfs / "k.db").db.execute("PRAGMA journal_mode").fetchone() == ("truncate",)


def test_a_store_moved_to_a_network_changes_its_ways(on_nfs: Path, tmp_path: Path) -> None:
    fill_store(tmp_path / "kdharness.db", runs=1)
    moved = on_nfs / "kdharness.db"
    moved.write_bytes((tmp_path / "kdharness.db").read_bytes())
    with Store(moved) as store:
        assert store.db.execute("PRAGMA journal_mode").fetchone() == ("delete",)
        assert len(store.runs()) == 1
