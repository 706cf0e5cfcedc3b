"""Atomic writes: to a temporary file, flushed to disk, then renamed into place.

The order matters. The bytes must reach the disk before the name that points at them, and a new
name is on disk only once its folder is flushed too; a rename alone guarantees no order. A folder
that many processes write to in place (a step checkpoint) is *sealed* instead: a list of its files
and their sizes is written last, and a folder without that list counts as incomplete.
"""

from __future__ import annotations

import json
import os
import shutil
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

SEAL = "sealed.json"


def sync_file(path: Path) -> None:
    """Flush one file's bytes to the disk."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def sync_folder(folder: Path) -> None:
    """Flush the names in a folder; does nothing where folders cannot be opened (Windows)."""
    if os.name != "nt":
        sync_file(folder)


def sync_tree(folder: Path) -> None:
    """Flush every file below a folder, and the names of each folder after its files."""
    for root, _, names in os.walk(folder, topdown=False):
        for name in names:
            path = Path(root) / name
            if not path.is_symlink():
                sync_file(path)
        sync_folder(Path(root))


def atomic_write_text(path: Path, text: str, mode: int | None = None) -> None:
    """Replace a file atomically: a reader, or a reboot after a crash, sees the old or the new.

    Args:
        path: the file.
        text: its content; the ends of lines are written as they are.
        mode: its permissions; those of a new file if None.

    Raises:
        OSError: it could not be written; the old file is kept.
    """
    scratch = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        with scratch.open("w", encoding="utf-8", newline="") as stream:
            if mode is not None:
                os.chmod(scratch, mode)
            stream.write(text)
            stream.flush()
            os.fsync(stream.fileno())
        os.replace(scratch, path)
    finally:
        scratch.unlink(missing_ok=True)
    sync_folder(path.parent)


def atomic_replace_dir(scratch: Path, target: Path) -> None:
    """Replace a folder by a finished one, after its bytes are on disk.

    A folder cannot be renamed onto a non-empty one, so for a moment there is neither; a process
    killed at that point leaves `target` missing, never half-written.
    """
    sync_tree(scratch)
    old = target.with_name(f".{target.name}.old")
    shutil.rmtree(old, ignore_errors=True)
    if target.exists():
        os.replace(target, old)
    try:
        os.replace(scratch, target)
    except OSError:
        if old.exists():
            os.replace(old, target)
        raise
    sync_folder(target.parent)
    shutil.rmtree(old, ignore_errors=True)


@contextmanager
def new_folder(target: Path, doing: str) -> Iterator[Path]:
    """Yield an empty folder beside `target`, which takes its place at the end.

    Its mode is that of any new folder (`tempfile.mkdtemp` closes it to other users). After an
    error it is removed, and what was at `target` stays; a killed process leaves `.DOING-...`.

    Raises:
        OSError: it cannot be created or moved.
    """
    target.parent.mkdir(parents=True, exist_ok=True)
    scratch = target.with_name(f".{doing}-{uuid.uuid4().hex[:12]}")
    scratch.mkdir()
    try:
        yield scratch
        atomic_replace_dir(scratch, target)
    finally:
        shutil.rmtree(scratch, ignore_errors=True)


def seal(folder: Path) -> None:
    """Mark a folder as complete: flush its files, then list their sizes in `sealed.json`."""
    sync_tree(folder)
    sizes = {
        path.relative_to(folder).as_posix(): path.stat().st_size
        for path in sorted(folder.rglob("*"))
        if path.is_file() and path.name != SEAL
    }
    atomic_write_text(folder / SEAL, json.dumps(sizes, indent=1))
    sync_folder(folder.parent)


def is_sealed(folder: Path) -> bool:
    """Return whether a folder was written completely and every file still has its size."""
    try:
        sizes = json.loads((folder / SEAL).read_text("utf-8"))
        return bool(sizes) and all(
            (folder / name).stat().st_size == size for name, size in sizes.items()
        )
    except (OSError, ValueError, AttributeError, RecursionError):
        return False
