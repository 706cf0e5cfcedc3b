"""The doctor's checks of the machine: accelerator, memory, disks, limits, encoding, terminal."""

from __future__ import annotations

import fcntl
import io
import os
import pty
import resource
import shutil
import struct
import subprocess
import sys
import termios
import time
from collections import namedtuple
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from kdharness.harness.doctor import home, machine
from kdharness.harness.doctor.finding import CheckResult
from kdharness.harness.paths import Paths
from support.doctor import Env, one, says

# ---------------------------------------------------------------- accelerator


def fake_torch(**changes: Any) -> SimpleNamespace:
    """Return a stand-in for torch that finds no GPU."""

    def init() -> None:
        raise RuntimeError("The NVIDIA driver on your system is too old (found version 11040).")

    values = {
        "version": SimpleNamespace(cuda="13.0", hip=None),
        "__version__": "2.13.0",
        "cuda": SimpleNamespace(init=init),
    }
    return SimpleNamespace(**{**values, **changes})


@pytest.fixture
def nvidia_driver(tmp_path: Path, monkeypatch: Env) -> Path:
    """Simulate a machine with an NVIDIA driver."""
    path = tmp_path / "nvidia"
    path.write_text("NVRM version", "utf-8")
    monkeypatch.setattr(machine, "NVIDIA", path)
    return path


def test_no_gpu(tmp_path: Path, monkeypatch: Env) -> None:
    for name in ("NVIDIA", "AMD"):
        monkeypatch.setattr(machine, name, tmp_path / "none")
    monkeypatch.setenv("PATH", str(tmp_path))
    says(machine.no_gpu(fake_torch()), "note", "runs on the CPU", "kdharness plan")


def test_gpu_with_a_cpu_only_torch(nvidia_driver: Path) -> None:
    torch = fake_torch(version=SimpleNamespace(cuda=None, hip=None))
    says(machine.no_gpu(torch), "broken", "CPU-only build", "pip uninstall torch")


def test_gpu_detected_only_by_nvidia_smi(tmp_path: Path, monkeypatch: Env) -> None:
    monkeypatch.setattr(machine, "NVIDIA", tmp_path / "none")
    monkeypatch.setattr(machine, "AMD", tmp_path / "none")
    monkeypatch.setenv("PATH", f"{tmp_path}{os.pathsep}{os.environ['PATH']}")
    torch = fake_torch(version=SimpleNamespace(cuda=None, hip=None))

    def check_with_nvidia_smi(script: str) -> CheckResult:
        program = tmp_path / "nvidia-smi"
        program.write_text(f"#!/bin/sh\n{script}\n", "utf-8")
        program.chmod(0o755)
        return machine.no_gpu(torch)

    says(
        check_with_nvidia_smi("echo 'GPU 0: H200'"),
        "broken",
        "found an NVIDIA GPU",
        "pip install torch",
    )
    says(
        check_with_nvidia_smi("echo 'could not talk to the driver'; exit 9"),
        "broken",
        "found an NVIDIA GPU",
        "pip",
    )
    says(
        check_with_nvidia_smi("echo 'No devices were found'; exit 6"),
        "note",
        "none: training runs on",
        "plan",
    )


def test_nvidia_driver_too_old(nvidia_driver: Path) -> None:
    says(
        machine.no_gpu(fake_torch()),
        "broken",
        "too old (found version 11040)",
        "update the NVIDIA driver",
    )


def test_unresponsive_nvidia_driver(nvidia_driver: Path) -> None:
    torch = fake_torch(cuda=SimpleNamespace(init=lambda: None))
    says(machine.no_gpu(torch), "broken", "cannot use it", "run nvidia-smi")


def test_gpu_hidden_by_cuda_visible_devices(nvidia_driver: Path, monkeypatch: Env) -> None:
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
    says(machine.no_gpu(fake_torch()), "note", "hidden by", "unset CUDA_VISIBLE_DEVICES")


def test_torch_import_fails(tmp_path: Path, monkeypatch: Env) -> None:
    broken = tmp_path / "torch.py"
    broken.write_text("raise OSError('libcudart.so.13: cannot open shared object file')", "utf-8")
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.delitem(sys.modules, "torch", raising=False)
    says(machine.accelerator()[0], "broken", "libcudart.so.13", "--force-reinstall torch")


def test_gpu_without_bf16_and_with_little_free_memory(monkeypatch: Env) -> None:
    import torch

    for name, value in {
        "is_available": lambda: True,
        "device_count": lambda: 1,
        "get_device_name": lambda index: "Tesla T4",
        "is_bf16_supported": lambda including_emulation: False,
        "mem_get_info": lambda: (2**29, 16 * 2**30),
    }.items():
        monkeypatch.setattr(torch.cuda, name, value)
    rows = machine.accelerator()
    says(one(rows, "accelerator"), "ok", "Tesla T4", "")
    says(one(rows, "bf16"), "note", "fp32, which is slower and needs more memory", "kdharness plan")
    says(one(rows, "gpu memory"), "note", "0.5 of 16.0 GiB", "with nvidia-smi")


# ---------------------------------------------------------------- memory, disks, limits


@pytest.fixture
def cgroup(tmp_path: Path, monkeypatch: Env) -> Callable[..., None]:
    """Return a function that sets a container's cgroup limits."""
    monkeypatch.setattr(machine, "CGROUP", tmp_path)

    def set_limits(**values: str) -> None:
        for name, value in values.items():
            (tmp_path / name.replace("_", ".", 1)).write_text(value + "\n", "utf-8")

    return set_limits


def test_low_memory_in_a_container(cgroup: Callable[..., None]) -> None:
    cgroup(memory_max=str(2**30), memory_current=str(2**29))
    says(machine.memory(), "note", "0.5 of 1.0 GiB free", "raise the container's limit")
    cgroup(memory_max="max")
    assert " of 1.0 GiB" not in machine.memory().detail


Usage = namedtuple("Usage", "total used free")


def set_free_space(monkeypatch: Env, free: int) -> None:
    monkeypatch.setattr(shutil, "disk_usage", lambda path: Usage(2**40, 2**40 - free, free))


@pytest.mark.parametrize(("free", "status"), [(2**28, "broken"), (2**31, "note"), (2**36, "ok")])
def test_low_disk_space(paths: Paths, monkeypatch: Env, free: int, status: str) -> None:
    set_free_space(monkeypatch, free)
    says(home.disk(paths), status, "GiB free", "" if status == "ok" else "free some")


def test_disk_without_free_inodes(paths: Paths, monkeypatch: Env) -> None:
    set_free_space(monkeypatch, 2**40)
    monkeypatch.setattr(os, "statvfs", lambda path: SimpleNamespace(f_favail=12))
    says(home.disk(paths), "broken", "only 12 free inodes", "delete small files")


def test_low_space_for_temporary_files(monkeypatch: Env) -> None:
    set_free_space(monkeypatch, 2**27)
    says(machine.temporary(), "note", "only 128 MiB", "set TMPDIR")


def test_no_temporary_directory(monkeypatch: Env) -> None:
    def raise_not_found() -> str:
        raise FileNotFoundError("No usable temporary directory found")

    monkeypatch.setattr("tempfile.gettempdir", raise_not_found)
    says(machine.temporary(), "broken", "No usable temporary", "set TMPDIR")


def test_low_shared_memory(tmp_path: Path, monkeypatch: Env) -> None:
    monkeypatch.setattr(machine, "SHARED_MEMORY", tmp_path)
    set_free_space(monkeypatch, 2**26)
    says(machine.shared_memory(), "note", "64 MiB free", "--shm-size")
    monkeypatch.setattr(machine, "SHARED_MEMORY", tmp_path / "none")
    assert machine.shared_memory().status == "ok"


@pytest.mark.parametrize(
    ("value", "detail"),
    [
        ("1", "one of 4 cores"),
        ("64", "oversubscribes"),
        ("many", "not a valid thread count"),
    ],
)
def test_unsuitable_thread_counts(monkeypatch: Env, value: str, detail: str) -> None:
    monkeypatch.setattr(os, "sched_getaffinity", lambda pid: range(4), raising=False)
    monkeypatch.setenv("OMP_NUM_THREADS", value)
    says(one(machine.threads(), "threads"), "note", detail, "unset")


def test_active_omp_wait_policy(monkeypatch: Env) -> None:
    monkeypatch.setenv("OMP_WAIT_POLICY", "ACTIVE")
    monkeypatch.setattr(os, "sched_getaffinity", lambda pid: range(4), raising=False)
    monkeypatch.setenv("OMP_NUM_THREADS", "4")
    says(one(machine.threads(), "threads"), "note", "active", "unset OMP_WAIT_POLICY")


def test_container_cpu_limit(cgroup: Callable[..., None], monkeypatch: Env) -> None:
    monkeypatch.setattr(os, "sched_getaffinity", lambda pid: range(16), raising=False)
    cgroup(cpu_max="250000 100000")
    says(one(machine.threads(), "processors"), "note", "may use 2.5", "OMP_NUM_THREADS=2")
    cgroup(cpu_max="max 100000")
    assert one(machine.threads(), "processors").status == "ok"


@contextmanager
def lowered_limit(kind: int, soft: int) -> Iterator[None]:
    before = resource.getrlimit(kind)
    resource.setrlimit(kind, (soft, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(kind, before)


def test_low_open_file_limit() -> None:
    with lowered_limit(resource.RLIMIT_NOFILE, 256):
        says(machine.open_files(), "note", "at most 256", "ulimit -n 4096")


def test_file_size_limit() -> None:
    with lowered_limit(resource.RLIMIT_FSIZE, 2**28):
        says(machine.file_size(), "note", "256 MiB", "ulimit -f unlimited")


def test_clock_in_the_past(monkeypatch: Env) -> None:
    monkeypatch.setattr(time, "time", lambda: 86_400.0)
    says(machine.clock(), "broken", "is in the past", "set the clock")


def test_output_encoding_is_not_utf8(monkeypatch: Env) -> None:
    monkeypatch.setattr(sys, "stdout", io.TextIOWrapper(io.BytesIO(), encoding="latin-1"))
    says(machine.words(), "note", "output in latin-1", "LANG=C.UTF-8")
    monkeypatch.undo()
    assert machine.words().status == "ok"


PRINT_TERMINAL_CHECK = (
    "from kdharness.harness.doctor.machine import terminal as t; f = t(); "
    "print(f.status, f.detail, f.advice, sep='|')"
)


@pytest.mark.parametrize(
    ("kind", "rows", "columns", "status", "detail"),
    [
        ("dumb", 24, 80, "note", "TERM='dumb'"),
        ("xterm-256color", 20, 60, "note", "60×20"),
        ("xterm-256color", 24, 80, "ok", "80×24, no colour"),
    ],
)
def test_terminal(kind: str, rows: int, columns: int, status: str, detail: str) -> None:
    main, other = pty.openpty()
    fcntl.ioctl(other, termios.TIOCSWINSZ, struct.pack("HHHH", rows, columns, 0, 0))
    done = subprocess.run(
        [sys.executable, "-c", PRINT_TERMINAL_CHECK],
        stdin=other,
        capture_output=True,
        env={**os.environ, "TERM": kind, "NO_COLOR": "1", "PYTHONUTF8": "1"},
    )
    os.close(main)
    os.close(other)
    fields = done.stdout.decode().strip().split("|")
    assert fields[0] == status and detail in fields[1], done
    assert bool(fields[2]) == (status != "ok")
