"""Paths that users type, and the file system they are on: SQLite's WAL needs a local one."""

from __future__ import annotations

import shutil
from pathlib import Path

NETWORK = frozenset(
    {
        "nfs",
        "nfs4",
        "cifs",
        "smb",
        "smb3",
        "smbfs",
        "afs",
        "ceph",
        "lustre",
        "9p",
        "gpfs",
        "beegfs",
        "glusterfs",
        "fuse.sshfs",
        "fuse.glusterfs",
        "fuse.rclone",
        "fuse.s3fs",
        "fuse.gcsfuse",
        "virtiofs",
        "wekafs",
    }
)
MOUNTS = Path("/proc/self/mounts")


def file_system(path: Path) -> str:
    """Return the type of file system a path is on, such as `ext4`; `unknown` if none is listed.

    Read from the kernel's mount table if there is one (a millisecond), else through psutil.
    """
    resolved = str(path.resolve())
    mounts = _from_kernel() if MOUNTS.exists() else _from_psutil()
    matches = [(len(point), kind) for point, kind in mounts if _below(resolved, point)]
    return max(matches, default=(0, "unknown"))[1]


def is_network(path: Path) -> bool:
    """Return whether a path is on a network file system, as far as can be determined."""
    return file_system(path) in NETWORK


def _below(path: str, point: str) -> bool:
    return path == point or path.startswith(point.rstrip("/") + "/")


def _from_kernel() -> list[tuple[str, str]]:
    lines = MOUNTS.read_text("utf-8", "replace").splitlines()
    # Spaces in names are written as \040. A later mount hides an earlier one at the same point.
    fields = [line.split(" ") for line in lines if line.count(" ") >= 2]
    return list({part[1].replace("\\040", " "): part[2] for part in fields}.items())


def _from_psutil() -> list[tuple[str, str]]:
    import psutil

    return [(part.mountpoint, part.fstype) for part in psutil.disk_partitions(all=True)]


def local_path(text: str) -> Path:
    """Convert user input to a path; `~nobody` and NUL characters do not raise."""
    try:
        return Path(text.replace("\0", "\ufffd")).expanduser()
    except RuntimeError:
        return Path(text.replace("\0", "\ufffd"))


def exists(path: Path, *, folder: bool | None = None) -> bool:
    """Return whether a path exists; a name that is too long does not.

    Args:
        folder: True for a folder, False for a regular file, None for either.
    """
    try:
        return path.exists() if folder is None else path.is_dir() if folder else path.is_file()
    except (OSError, ValueError):
        return False


def nearest_existing(path: Path) -> Path:
    """Return the path itself, or the closest folder above it that exists."""
    while not path.exists() and path != path.parent:
        path = path.parent
    return path


def free_bytes(path: Path) -> int:
    """Return the bytes that are free where a path is, or will be created."""
    return shutil.disk_usage(nearest_existing(path)).free
