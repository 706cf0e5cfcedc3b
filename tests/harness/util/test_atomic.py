"""Atomic writes: fsync the file, rename, fsync the folder; partial writes are detected."""

from __future__ import annotations

import os
import stat
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from kdharness.harness.util import atomic


class Recorder:
    """Record system calls in order: `sync NAME`, `rename A B`."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.calls: list[str] = []
        fsync, replace = os.fsync, os.replace

        def spy_fsync(descriptor: int) -> None:
            self.calls.append(f"sync {Path(os.readlink(f'/proc/self/fd/{descriptor}')).name}")
            fsync(descriptor)

        def spy_replace(source: str | Path, target: str | Path) -> None:
            self.calls.append(f"rename {Path(source).name} {Path(target).name}")
            replace(source, target)

        monkeypatch.setattr(atomic.os, "fsync", spy_fsync)
        monkeypatch.setattr(atomic.os, "replace", spy_replace)

    def index(self, call: str) -> int:
        assert self.calls.count(call) == 1, self.calls
        return self.calls.index(call)


linux = pytest.mark.skipif(not Path("/proc/self/fd").exists(), reason="reads Linux's /proc")


@linux
def test_file_is_fsynced_before_rename(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    recorder = Recorder(monkeypatch)
    atomic.atomic_write_text(tmp_path / "note.json", "{}")
    scratch = f".note.json.{os.getpid()}"
    assert recorder.calls == [
        f"sync {scratch}",
        f"rename {scratch} note.json",
        f"sync {tmp_path.name}",
    ]
    assert (tmp_path / "note.json").read_text() == "{}" and len(list(tmp_path.iterdir())) == 1


def test_failed_write_keeps_the_old_file_and_leaves_no_temporary_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "note.json"
    atomic.atomic_write_text(path, "old")

    def disk_full(_: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(atomic.os, "fsync", disk_full)
    with pytest.raises(OSError, match="No space"):
        atomic.atomic_write_text(path, "new")
    assert path.read_text() == "old" and [p.name for p in tmp_path.iterdir()] == ["note.json"]


@linux
def test_folder_is_fsynced_recursively_before_rename(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    scratch, target = tmp_path / ".new", tmp_path / "final"
    (scratch / "part").mkdir(parents=True)
    (scratch / "weights").write_bytes(b"w")
    (scratch / "part" / "index").write_bytes(b"i")
    target.mkdir()
    (target / "stale").write_bytes(b"s")
    recorder = Recorder(monkeypatch)
    atomic.atomic_replace_dir(scratch, target)
    rename = recorder.index("rename .new final")
    for name in ("weights", "index", "part", ".new"):
        assert recorder.index(f"sync {name}") < rename
    assert recorder.index(f"sync {tmp_path.name}") > rename
    assert sorted(p.name for p in target.iterdir()) == ["part", "weights"]
    assert [p.name for p in tmp_path.iterdir()] == ["final"]


@linux
def test_seal_is_written_after_the_files_it_covers(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = tmp_path / "checkpoint-5"
    folder.mkdir()
    (folder / "optimizer.pt").write_bytes(b"o" * 100)
    recorder = Recorder(monkeypatch)
    atomic.seal(folder)
    assert (
        recorder.index("sync optimizer.pt")
        < recorder.index(f"rename .sealed.json.{os.getpid()} sealed.json")
        < recorder.index(f"sync {tmp_path.name}")
    )
    assert atomic.is_sealed(folder)


@pytest.mark.slow
@settings(max_examples=60, suppress_health_check=list(HealthCheck))
@given(
    sizes=st.lists(st.integers(0, 300), min_size=1, max_size=4),
    which=st.integers(0, 10),
    cut=st.floats(0, 0.999),
    kind=st.sampled_from(["cut", "gone", "seal"]),
)
def test_seal_detects_missing_and_truncated_files(
    tmp_path_factory: pytest.TempPathFactory, sizes: list[int], which: int, cut: float, kind: str
) -> None:
    folder = tmp_path_factory.mktemp("step")
    for number, size in enumerate(sizes):
        (folder / f"f{number}").write_bytes(b"x" * (size + 1))
    assert not atomic.is_sealed(folder)
    atomic.seal(folder)
    assert atomic.is_sealed(folder)
    victim = folder / ("sealed.json" if kind == "seal" else f"f{which % len(sizes)}")
    data = victim.read_bytes()
    if kind == "gone":
        victim.unlink()
    else:
        victim.write_bytes(data[: int(len(data) * cut)])
    assert not atomic.is_sealed(folder)


@linux
def test_a_new_folder_is_open_to_others_as_the_umask_says(tmp_path: Path) -> None:
    before = os.umask(0o022)
    try:
        with atomic.new_folder(tmp_path / "a" / "model", "making") as scratch:
            (scratch / "weights").write_text("x", "utf-8")
            assert not (tmp_path / "a" / "model").exists()
    finally:
        os.umask(before)
    made = tmp_path / "a" / "model"
    assert stat.S_IMODE(made.stat().st_mode) == 0o755
    assert (made / "weights").read_text("utf-8") == "x"


def test_a_folder_that_fails_leaves_the_old_one(tmp_path: Path) -> None:
    target = tmp_path / "model"
    target.mkdir()
    (target / "weights").write_text("old", "utf-8")
    making = atomic.new_folder(target, "making")
    (making.__enter__() / "weights").write_text("half", "utf-8")
    assert not making.__exit__(ZeroDivisionError, ZeroDivisionError(), None)
    assert (target / "weights").read_text("utf-8") == "old"
    assert [path.name for path in tmp_path.iterdir()] == ["model"]
