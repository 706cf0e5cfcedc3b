"""Doctor: GPU, CPU, memory, disks, limits, clock, text encoding and terminal of this machine."""

from __future__ import annotations

import locale
import os
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from kdharness.harness.doctor.finding import CheckResult, fail, ok, warn
from kdharness.harness.util.process import usable_cores

GIB = 2**30
NVIDIA = Path("/proc/driver/nvidia/version")
AMD = Path("/dev/kfd")
SHARED_MEMORY = Path("/dev/shm")
CGROUP = Path("/sys/fs/cgroup")
ENOUGH_FILES = 1024
FIRST_YEAR = 1_735_689_600.0
"""2025-01-01: earlier, this version did not exist, and certificates seem not yet valid."""


def run_checks() -> list[CheckResult]:
    """Run every check of this module."""
    return [
        *accelerator(),
        memory(),
        temporary(),
        shared_memory(),
        *threads(),
        open_files(),
        file_size(),
        clock(),
        words(),
        terminal(),
    ]


# ---------------------------------------------------------------- accelerator


def accelerator() -> list[CheckResult]:
    """Report the GPU that torch sees, or why it sees none; then what that GPU supports."""
    try:
        import torch
    except Exception as error:  # a broken install raises whatever its libraries raise
        first = (str(error).splitlines() or [type(error).__name__])[0]
        return [
            fail(
                "accelerator",
                f"cannot import torch: {first}",
                "pip install --force-reinstall torch",
            )
        ]
    if torch.cuda.is_available():
        names = [torch.cuda.get_device_name(i) for i in range(torch.cuda.device_count())]
        return [ok("accelerator", ", ".join(names)), bf16(torch), gpu_memory(torch)]
    if torch.backends.mps.is_available():
        return [ok("accelerator", "Apple GPU (mps)")]
    return [no_gpu(torch)]


def no_gpu(torch: Any) -> CheckResult:
    """Explain why torch sees no GPU: hidden, CPU-only build, old driver, or no GPU."""
    hidden = os.environ.get("CUDA_VISIBLE_DEVICES")
    if not (has_nvidia() or AMD.exists()):
        return warn(
            "accelerator",
            f"none: training runs on the CPU ({usable_cores()} cores, fp32)",
            "fine for small models; to estimate the time of a run: kdharness plan CONFIG",
        )
    if hidden is not None and hidden.strip() in ("", "-1", "NoDevFiles"):
        return warn(
            "accelerator",
            f"a GPU is hidden by CUDA_VISIBLE_DEVICES={hidden!r}",
            "unset CUDA_VISIBLE_DEVICES to train on it",
        )
    built = torch.version.cuda or torch.version.hip
    if not built:
        kind = "NVIDIA" if has_nvidia() else "AMD"
        where = (
            "PyPI's Linux build has CUDA; for others see" if kind == "NVIDIA" else "choose ROCm at"
        )
        return fail(
            "accelerator",
            f"found an {kind} GPU, but torch {torch.__version__} is a CPU-only build",
            "pip uninstall torch, then pip install torch with your GPU's build "
            f"({where} https://pytorch.org/get-started)",
        )
    try:
        torch.cuda.init()
        reason = "no reason given"
    except Exception as error:  # RuntimeError, or AssertionError from older builds
        reason = (str(error).splitlines() or [type(error).__name__])[0]
    advice = "run nvidia-smi: if it fails too, repair or load the driver"
    if "too old" in reason:
        advice = f"update the NVIDIA driver, or install a torch for an older CUDA than {built}"
    return fail("accelerator", f"found a GPU, but torch cannot use it: {reason}", advice)


def has_nvidia() -> bool:
    """Return whether this machine has an NVIDIA driver or card, whatever torch reports."""
    if NVIDIA.exists():
        return True
    program = shutil.which("nvidia-smi")
    if program is None:
        return False
    try:
        done = subprocess.run([program, "-L"], capture_output=True, text=True, timeout=2)
    except (OSError, subprocess.TimeoutExpired):
        return True
    # It fails if the driver does not respond, and if there is no card at all.
    return "GPU" in done.stdout or (
        done.returncode != 0 and "no devices" not in (done.stdout + done.stderr).lower()
    )


def bf16(torch: Any) -> CheckResult:
    """Check for bf16 in hardware: without it `precision: auto` is fp32."""
    if torch.cuda.is_bf16_supported(including_emulation=False):
        return ok("bf16", "supported")
    return warn(
        "bf16",
        "not supported by this GPU: runs use fp32, which is slower and needs more memory",
        "estimate memory with kdharness plan CONFIG; smaller batches or LoRA help",
    )


def gpu_memory(torch: Any) -> CheckResult:
    """Report free GPU memory: another process may use it."""
    free, total = torch.cuda.mem_get_info()
    text = f"{free / GIB:.1f} of {total / GIB:.1f} GiB free"
    if free < max(GIB, total * 0.2):
        return warn(
            "gpu memory",
            text,
            "find the process that uses it with nvidia-smi and stop it, or choose another GPU "
            "with CUDA_VISIBLE_DEVICES",
        )
    return ok("gpu memory", text)


# ---------------------------------------------------------------- memory, disks, processors


def memory() -> CheckResult:
    """Report free memory, within a container's limit if there is one."""
    import psutil

    machine = psutil.virtual_memory()
    total, free = machine.total, machine.available
    limit = _number(CGROUP / "memory.max")
    if limit and limit < total:
        used = _number(CGROUP / "memory.current") or 0
        total, free = int(limit), min(free, int(limit - used))
    text = f"{free / GIB:.1f} of {total / GIB:.1f} GiB free"
    if free < 2 * GIB:
        return warn(
            "memory",
            text,
            "close other programs, or raise the container's limit; "
            "to estimate a run: kdharness plan CONFIG",
        )
    return ok("memory", text)


def temporary() -> CheckResult:
    """Check for space where wheels and parts of models are assembled."""
    try:
        folder = tempfile.gettempdir()
        free = shutil.disk_usage(folder).free
    except OSError as error:
        return fail(
            "temporary files",
            f"no usable folder: {error}",
            "set TMPDIR to a writable folder",
        )
    if free < GIB:
        return warn(
            "temporary files",
            f"{folder}: only {free / 2**20:.0f} MiB free",
            "free some space, or set TMPDIR to a folder with space: pulls need it",
        )
    return ok("temporary files", f"{folder}, {free / GIB:.0f} GiB free")


def shared_memory() -> CheckResult:
    """Check shared memory: containers start with 64 MiB, several GPUs need more."""
    if not SHARED_MEMORY.is_dir():
        return ok("shared memory", f"no {SHARED_MEMORY} on this system")
    free = shutil.disk_usage(SHARED_MEMORY).free
    if free < 256 * 2**20:
        return warn(
            "shared memory",
            f"{SHARED_MEMORY}: {free / 2**20:.0f} MiB free",
            "several GPUs need more: docker run --shm-size=2g, or delete old files there",
        )
    return ok("shared memory", f"{free / GIB:.1f} GiB free")


def threads() -> list[CheckResult]:
    """Compare the cores this process may use with OpenMP's settings."""
    cores = usable_cores()
    results = [ok("processors", f"{cores} cores")]
    quota = _quota()
    if quota and quota < cores:
        results = [
            warn(
                "processors",
                f"{cores} cores are visible, but the container may use {quota:g}",
                f"export OMP_NUM_THREADS={max(1, int(quota))}: more threads oversubscribe them",
            )
        ]
    text = os.environ.get("OMP_NUM_THREADS")
    if text is None:
        results.append(ok("threads", "one per core"))
    elif not text.strip().isdigit() or int(text) < 1:
        results.append(
            warn(
                "threads",
                f"OMP_NUM_THREADS={text!r} is not a valid thread count",
                "unset OMP_NUM_THREADS",
            )
        )
    elif int(text) == 1 < cores:
        results.append(
            warn(
                "threads",
                f"OMP_NUM_THREADS=1: only one of {cores} cores is used",
                "unset OMP_NUM_THREADS",
            )
        )
    elif int(text) > cores:
        results.append(
            warn(
                "threads",
                f"OMP_NUM_THREADS={text} oversubscribes {cores} cores",
                f"unset it, or export OMP_NUM_THREADS={cores}",
            )
        )
    elif os.environ.get("OMP_WAIT_POLICY", "").lower() == "active":
        results.append(
            warn(
                "threads",
                "OMP_WAIT_POLICY=active: waiting threads keep cores busy",
                "unset OMP_WAIT_POLICY",
            )
        )
    else:
        results.append(ok("threads", f"OMP_NUM_THREADS={text}"))
    return results


def _quota() -> float | None:
    """Return how many CPUs a container may use, or None without a limit."""
    try:
        given, period = (CGROUP / "cpu.max").read_text("utf-8").split()
        return None if given == "max" else int(given) / int(period)
    except (OSError, ValueError):
        return None


def _number(path: Path) -> float | None:
    try:
        return float(path.read_text("utf-8"))
    except (OSError, ValueError):
        return None


# ---------------------------------------------------------------- limits, clock, encoding


def open_files() -> CheckResult:
    """Check the open-file limit: judges need one per call, workers one per shard."""
    limit = _limit("RLIMIT_NOFILE")
    if limit is not None and limit < ENOUGH_FILES:
        return warn("open files", f"at most {limit}", "ulimit -n 4096")
    return ok("open files", f"at most {limit}" if limit else "no limit")


def file_size() -> CheckResult:
    """Check for a limit on file sizes, which truncates checkpoints."""
    limit = _limit("RLIMIT_FSIZE")
    if limit is not None and limit < 4 * GIB:
        return warn(
            "file size",
            f"at most {limit / 2**20:.0f} MiB: saving a larger checkpoint fails",
            "ulimit -f unlimited",
        )
    return ok("file size", "no limit" if limit is None else f"at most {limit / GIB:.0f} GiB")


def _limit(name: str) -> int | None:
    try:
        import resource
    except ImportError:
        return None
    soft: int = resource.getrlimit(getattr(resource, name))[0]
    return None if soft in (resource.RLIM_INFINITY, -1) else soft


def clock() -> CheckResult:
    """Check for a clock set before this version was released."""
    now = time.time()
    text = time.strftime("%Y-%m-%d %H:%M", time.localtime(now))
    if now < FIRST_YEAR:
        return fail(
            "clock",
            f"{text} is in the past: TLS connections fail",
            "set the clock, for example: timedatectl set-ntp true",
        )
    return ok("clock", text)


def words() -> CheckResult:
    """Check for UTF-8: a terminal or system with another encoding shows ? or fails."""
    encodings = {
        "output": getattr(sys.stdout, "encoding", None) or "utf-8",
        "files": locale.getpreferredencoding(False),
    }
    others = [
        f"{name} in {encoding}"
        for name, encoding in encodings.items()
        if encoding.lower().replace("-", "").replace("_", "") not in ("utf8", "utf8sig")
    ]
    if others:
        return warn(
            "text",
            f"{' and '.join(others)}, not UTF-8",
            "export LANG=C.UTF-8 PYTHONUTF8=1, and unset PYTHONIOENCODING",
        )
    return ok("text", "UTF-8")


def terminal() -> CheckResult:
    """Report the terminal's type and size, for the app."""
    size = _terminal_size()
    if size is None:
        return ok("terminal", "no terminal: not checked")
    kind = os.environ.get("TERM", "")
    if kind in ("", "dumb", "unknown"):
        return warn(
            "terminal",
            f"TERM={kind!r}: the app cannot draw",
            "export TERM=xterm-256color, or use another terminal",
        )
    if size.columns < 80 or size.lines < 24:
        return warn(
            "terminal",
            f"{size.columns}×{size.lines}: the app needs at least 80×24",
            "enlarge the window, or use a smaller font",
        )
    colour = ", no colour (NO_COLOR)" if os.environ.get("NO_COLOR") else ""
    return ok("terminal", f"{kind}, {size.columns}×{size.lines}{colour}")


def _terminal_size() -> os.terminal_size | None:
    for stream in (1, 2, 0):
        try:
            if os.isatty(stream):
                return os.get_terminal_size(stream)
        except OSError:
            continue
    return None
