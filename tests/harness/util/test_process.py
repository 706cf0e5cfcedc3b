"""Which GPU and which modules a process sees."""

from __future__ import annotations

import os
import platform
import subprocess
import sys
from pathlib import Path

import pytest

from kdharness.harness.util.detached import start_detached
from kdharness.harness.util.process import (
    child_environment,
    use_one_gpu,
)


@pytest.mark.parametrize(
    ("device", "visible", "installed", "want", "now"),
    [
        ("auto", None, 4, ("auto", "0", 4), "0"),
        ("cuda", None, 4, ("cuda", "0", 4), "0"),
        ("cuda:0", None, 4, ("cuda", "0", 4), "0"),
        ("cuda:2", None, 4, ("cuda", "2", 4), "2"),
        # An index counts the visible ones, as in torch.
        ("cuda:1", "3,5", 8, ("cuda", "5", 2), "5"),
        ("cuda:1", " GPU-a , GPU-b", 2, ("cuda", "GPU-b", 2), "GPU-b"),
        ("auto", "MIG-1/2/3", 1, ("auto", "MIG-1/2/3", 1), "MIG-1/2/3"),
        ("cuda:1", "3,-1,5", 8, ("cuda:1", "", 1), "3,-1,5"),
        # No GPU, or none of that number: the device is refused by name where it is used.
        ("auto", None, 0, ("auto", "", 0), None),
        ("auto", "", 4, ("auto", "", 0), ""),
        ("auto", "-1", 4, ("auto", "", 0), "-1"),
        ("cuda:7", None, 4, ("cuda:7", "", 4), None),
        ("cuda:1", None, 0, ("cuda", "1", 0), "1"),
        ("cpu", None, 4, ("cpu", "", 0), None),
        ("mps", None, 0, ("mps", "", 0), None),
        ("cuda:x", None, 4, ("cuda:x", "", 0), None),
    ],
)
def test_one_gpu_is_left_visible(
    device: str, visible: str | None, installed: int, want: tuple[str, str, int], now: str | None
) -> None:
    environ = {} if visible is None else {"CUDA_VISIBLE_DEVICES": visible}
    assert use_one_gpu(device, environ, installed) == want
    assert environ.get("CUDA_VISIBLE_DEVICES") == now


def test_files_in_the_working_directory_replace_no_modules_of_our_processes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("random", "datasets", "statistics"):
        (tmp_path / f"{name}.py").write_text("raise RuntimeError('notes of the user')")
    monkeypatch.chdir(tmp_path)
    script = (
        "import random, subprocess, sys\n"
        "sys.exit(subprocess.call([sys.executable, '-c', 'import statistics, random']))"
    )
    log = tmp_path / "log"
    with log.open("wb") as sink:
        process = start_detached([sys.executable, "-c", script], sink)
        # Its own children, as those of `accelerate launch`, are spared too.
        assert process.wait(60) == 0, log.read_text()


def test_values_of_the_environment_are_kept_for_our_processes(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("HF_HOME", "/models")
    given = child_environment(PYTHONUNBUFFERED="1")
    assert (given["HF_HOME"], given["PYTHONUNBUFFERED"], given["PYTHONSAFEPATH"]) == (
        "/models",
        "1",
        "1",
    )


FAULTS = """
import ctypes, resource, numpy
# Huge pages would make fewer faults of as much memory.
ctypes.CDLL(None).prctl(41, 1, 0, 0, 0)
from kdharness.harness.util.process import keep_freed_memory
print(keep_freed_memory(0))
numpy.ones(8 << 20)
before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
for _ in range(10):
    numpy.ones(8 << 20)
print(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
"""


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="a setting of glibc")
@pytest.mark.parametrize(
    ("chosen", "kept"),
    [
        ({}, True),
        ({"MALLOC_TRIM_THRESHOLD_": "131072"}, False),
        ({"GLIBC_TUNABLES": "glibc.malloc.mmap_max=65536"}, False),
    ],
    ids=str,
)
def test_freed_blocks_are_used_again(chosen: dict[str, str], kept: bool) -> None:
    """Ten blocks of 64 MiB are the same pages, or 16,384 new ones each."""
    inherited = {k: v for k, v in os.environ.items() if not k.startswith(("MALLOC_", "GLIBC_"))}
    environment = {**inherited, "NUMPY_MADVISE_HUGEPAGE": "0", **chosen}
    said = subprocess.run(
        [sys.executable, "-c", FAULTS], env=environment, capture_output=True, text=True, check=True
    )
    done, faults = said.stdout.split()
    assert done == str(kept)
    assert (int(faults) < 1000) is kept
