"""Store faults: missing permissions, full disks, locks and network file systems."""

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

UNPRIVILEGED_UID = 65534


# ---------------------------------------------------------------- permission


def run_unprivileged(work: Callable[[], None]) -> str:
    """Call `work` in a child process as an unprivileged user; return its error text, if any.

    Root may write anywhere, so a test run as root drops privileges. Import modules beforehand.
    """
    reading, writing = os.pipe()
    child = os.fork()
    if child == 0:
        text = ""
        try:
            if os.getuid() == 0:
                os.setgroups([])
                os.setgid(UNPRIVILEGED_UID)
                os.setuid(UNPRIVILEGED_UID)
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
    """Yield a read-only home in a folder that every user can reach."""
    with tempfile.TemporaryDirectory(dir="/tmp") as folder:
        os.chmod(folder, 0o755)
        paths = Paths(Path(folder) / "home")
        fill_store(paths.store)
        for path in [paths.home, *paths.home.rglob("*")]:
            path.chmod(0o555 if path.is_dir() else 0o444)
        yield paths
        paths.home.chmod(0o755)


@pytest.mark.slow
def test_read_only_home_can_be_read(shared_home: Paths, tmp_path: Path) -> None:
    from kdharness.harness.analysis.leaderboard import leaderboard

    # Load lazily imported modules now: the unprivileged user may not read root's folders.
    fill_store(tmp_path / "kdharness.db", runs=1)
    with Store(tmp_path / "kdharness.db") as store:
        assert leaderboard(store)

    def read() -> None:
        with Store(shared_home.store) as store:
            assert store.read_only
            assert len(store.runs()) == 3 and len(store.judgments()) == 60
            assert {score.checkpoint for score in leaderboard(store)} == {"kd-0", "kd-1", "kd-2"}

    assert run_unprivileged(read) == ""


def test_read_only_home_can_be_merged_from(shared_home: Paths) -> None:
    """In WAL mode SQLite creates files beside a store even for reading."""
    from kdharness.harness.maintenance.merge import merge

    def merge_twice() -> None:
        with (
            tempfile.TemporaryDirectory(dir="/tmp") as folder,
            Store(Path(folder) / "kdharness.db") as store,
        ):
            assert merge(store, shared_home.store)["checkpoints"] == 3
            assert merge(store, shared_home.store)["checkpoints"] == 0

    assert run_unprivileged(merge_twice) == ""


def test_write_to_a_read_only_home_is_reported(shared_home: Paths) -> None:
    def write() -> None:
        with Store(shared_home.store) as store:
            try:
                store.add_event("kd-0", "note", "x")
            except sqlite3.Error as error:
                user_error = as_user_error(error, shared_home.home)
                assert user_error is not None
                raise user_error from error

    error_text = run_unprivileged(write)
    assert (
        error_text.startswith("StoreError")
        and "not writable" in error_text
        and "--home" in error_text
    )


def test_home_that_cannot_be_created_is_reported(shared_home: Paths) -> None:
    def make() -> None:
        Store(shared_home.home / "new" / "kdharness.db")

    error_text = run_unprivileged(make)
    assert (
        error_text.startswith("StoreError") and "ermission" in error_text and "--home" in error_text
    )


# ---------------------------------------------------------------- a full disk

LIMITED = """
import resource, sys
from kdharness.harness.cli import run
resource.setrlimit(resource.RLIMIT_FSIZE, (int(sys.argv[1]), int(sys.argv[1])))
sys.exit(run(sys.argv[2:]))
"""


def run_with_file_limit(size: int, *args: str) -> tuple[int, str]:
    """Run the command line with files limited to `size` bytes, as under a quota."""
    done = subprocess.run(
        [sys.executable, "-c", LIMITED, str(size), *args],
        capture_output=True,
        text=True,
        timeout=120,
    )
    return done.returncode, done.stderr


@pytest.mark.slow
def test_full_disk_during_merge_is_reported_and_nothing_is_lost(
    paths: Paths, tmp_path: Path
) -> None:
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
    # Without the limit, the same command succeeds.
    from kdharness.harness import cli

    assert cli.run(["--home", str(paths.home), "store", "merge", str(source)]) == 0
    with Store(paths.store) as store:
        assert len(store.judgments()) == 60 + 600


def test_full_database_is_reported_as_a_full_disk(paths: Paths) -> None:
    fill_store(paths.store, runs=1)
    with Store(paths.store) as store:
        pages = store.db.execute("PRAGMA page_count").fetchone()[0]
        store.db.execute(f"PRAGMA max_page_count={pages}")
        with pytest.raises(sqlite3.OperationalError, match="full") as caught:
            store.add_event("kd-0", "note", "x" * 100_000)
        user_error = as_user_error(caught.value, paths.home)
        assert (
            user_error is not None
            and "the disk is full" in str(user_error)
            and "resume" in str(user_error)
        )
        assert len(store.events("kd-0")) == 2


@pytest.mark.parametrize(
    "error",
    [
        OSError(28, "No space left on device"),
        OSError(122, "Disk quota exceeded"),
        RuntimeError("Error while serializing: I/O error: No space left on device (os error 28)"),
    ],
)
def test_disk_full_errors_are_recognized(error: Exception, tmp_path: Path) -> None:
    user_error = as_user_error(error, tmp_path)
    assert user_error is not None and "the disk is full" in str(user_error)


def test_programming_errors_are_not_turned_into_user_errors(tmp_path: Path) -> None:
    connection = sqlite3.connect(":memory:")
    with pytest.raises(sqlite3.OperationalError) as caught:
        connection.execute("SELECT nothing FROM nowhere")
    for error in (caught.value, ValueError("no"), KeyError("k"), RuntimeError("cannot write")):
        assert as_user_error(error, tmp_path) is None


# ---------------------------------------------------------------- locks


def test_locked_store_is_reported(paths: Paths) -> None:
    fill_store(paths.store, runs=1)
    holder = sqlite3.connect(paths.store)
    holder.execute("BEGIN IMMEDIATE")
    with Store(paths.store, timeout=0.2) as store:
        assert store.run("kd-0") is not None
        with pytest.raises(sqlite3.OperationalError) as caught:
            store.add_event("kd-0", "note", "x")
        user_error = as_user_error(caught.value, paths.home)
        assert isinstance(user_error, StoreError) and "locked" in str(user_error)
        holder.rollback()
        store.add_event("kd-0", "note", "x")


# ---------------------------------------------------------------- network file systems


@pytest.fixture
def on_nfs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Return a folder on NFS, with a space in its path, according to a fake mount table."""
    share = tmp_path / "the share"
    share.mkdir()
    table = tmp_path / "mounts"
    shown = str(share).replace(" ", "\\040")
    table.write_text(f"/dev/vda / ext4 rw 0 0\nserver:/x {shown} nfs4 rw 0 0\n")
    monkeypatch.setattr(filesystem, "MOUNTS", table)
    return share


def test_store_on_a_network_file_system_does_not_use_wal(
    on_nfs: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert filesystem.is_network(on_nfs / "deep" / "down") and not filesystem.is_network(tmp_path)
    assert not filesystem.is_network(tmp_path / "the share too")

    def journal_mode(path: Path) -> str:
        fill_store(path, runs=1)
        assert len(contents(path)["runs"]) == 1
        return str(sqlite3.connect(path).execute("PRAGMA journal_mode").fetchone()[0])

    assert journal_mode(on_nfs / "kdharness.db") == "delete"
    assert journal_mode(tmp_path / "kdharness.db") == "wal"
    monkeypatch.setenv("KDHARNESS_JOURNAL_MODE", "truncate")
    # The user's setting wins; `truncate` is per connection, `delete` is stored in the file.
    assert Store(on_nfs / "k.db").db.execute("PRAGMA journal_mode").fetchone() == ("truncate",)


def test_store_moved_to_a_network_file_system_leaves_wal(on_nfs: Path, tmp_path: Path) -> None:
    fill_store(tmp_path / "kdharness.db", runs=1)
    moved = on_nfs / "kdharness.db"
    moved.write_bytes((tmp_path / "kdharness.db").read_bytes())
    with Store(moved) as store:
        assert store.db.execute("PRAGMA journal_mode").fetchone() == ("delete",)
        assert len(store.runs()) == 1
