"""Doctor: processors, memory, disks, limits, clock, words and terminal of this machine."""

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

GIB = 2**30
NVIDIA = Path("/proc/driver/nvidia/version")
AMD = Path("/dev/kfd")
SHARED_MEMORY = Path("/dev/shm")
CGROUP = Path("/sys/fs/cgroup")
ENOUGH_FILES = 1024
FIRST_YEAR = 1_735_689_600.0
"""2025-01-01: before it, this version did not exist, and certificates look not yet valid."""


def run_checks() -> list[CheckResult]:
    """Every finding of this file."""
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
    """The GPU that torch sees, or why it sees none; then what that GPU can do."""
    try:
        import torch
    except Exception as error:  # a broken install raises whatever its libraries raise
        first = (str(error).splitlines() or [type(error).__name__])[0]
        return [
            fail(
                "accelerator",
                f"torch does not load: {first}",
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
    """Why torch sees no GPU: hidden, built without, driver too old, or none there."""
    hidden = os.environ.get("CUDA_VISIBLE_DEVICES")
    if not (has_nvidia() or AMD.exists()):
        return warn(
            "accelerator",
            f"none: training runs on the CPU ({os.cpu_count()} cores, fp32)",
            "fine for small models; kdharness plan CONFIG tells how long a run takes",
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
            f"an {kind} GPU is here, but torch {torch.__version__} is built for the CPU alone",
            "pip uninstall torch, then pip install torch with your GPU's build "
            f"({where} https://pytorch.org/get-started)",
        )
    try:
        torch.cuda.init()
        reason = "it names no reason"
    except Exception as error:  # RuntimeError, or AssertionError from older builds
        reason = (str(error).splitlines() or [type(error).__name__])[0]
    advice = "run nvidia-smi: if it fails too, repair or load the driver"
    if "too old" in reason:
        advice = f"update the NVIDIA driver, or install a torch for an older CUDA than {built}"
    return fail("accelerator", f"a GPU is here, but torch cannot use it: {reason}", advice)


def has_nvidia() -> bool:
    """Whether an NVIDIA driver or card is here, whatever torch thinks."""
    if NVIDIA.exists():
        return True
    program = shutil.which("nvidia-smi")
    if program is None:
        return False
    try:
        done = subprocess.run([program, "-L"], capture_output=True, text=True, timeout=2)
    except (OSError, subprocess.TimeoutExpired):
        return True
    # It fails where the driver does not answer, and where there is no card at all.
    return "GPU" in done.stdout or (
        done.returncode != 0 and "no devices" not in (done.stdout + done.stderr).lower()
    )


def bf16(torch: Any) -> CheckResult:
    """bf16 in hardware: without it `dtype: auto` means fp32, twice the memory."""
    if torch.cuda.is_bf16_supported(including_emulation=False):
        return ok("bf16", "supported")
    return warn(
        "bf16",
        "this GPU has none: runs use fp32, which takes twice the memory",
        "plan with kdharness plan CONFIG; smaller batches or LoRA help",
    )


def gpu_memory(torch: Any) -> CheckResult:
    """Free memory of the GPU: another process may hold it."""
    free, total = torch.cuda.mem_get_info()
    text = f"{free / GIB:.1f} of {total / GIB:.1f} GiB free"
    if free < max(GIB, total * 0.2):
        return warn(
            "gpu memory",
            text,
            "nvidia-smi tells who holds it; end that, or choose "
            "another GPU with CUDA_VISIBLE_DEVICES",
        )
    return ok("gpu memory", text)


# ---------------------------------------------------------------- memory, disks, processors


def memory() -> CheckResult:
    """Free memory, under a container's limit where there is one."""
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
            "kdharness plan CONFIG tells what a run needs",
        )
    return ok("memory", text)


def temporary() -> CheckResult:
    """Room where wheels and parts of models are put together."""
    try:
        place = tempfile.gettempdir()
        free = shutil.disk_usage(place).free
    except OSError as error:
        return fail(
            "temporary files",
            f"no usable folder: {error}",
            "set TMPDIR to a folder that you can write",
        )
    if free < GIB:
        return warn(
            "temporary files",
            f"{place}: only {free / 2**20:.0f} MiB free",
            "free some, or set TMPDIR to a folder with room: pulls need it",
        )
    return ok("temporary files", f"{place}, {free / GIB:.0f} GiB free")


def shared_memory() -> CheckResult:
    """Shared memory between processes: containers start with 64 MiB, several GPUs need more."""
    if not SHARED_MEMORY.is_dir():
        return ok("shared memory", "no such folder on this system")
    free = shutil.disk_usage(SHARED_MEMORY).free
    if free < 256 * 2**20:
        return warn(
            "shared memory",
            f"{SHARED_MEMORY}: {free / 2**20:.0f} MiB free",
            "several GPUs need more: docker run --shm-size=2g, or clear old files there",
        )
    return ok("shared memory", f"{free / GIB:.1f} GiB free")


def threads() -> list[CheckResult]:
    """Cores that this process may use, against what OpenMP was told."""
    cores = (
        len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    )
    found = [ok("processors", f"{cores} cores")]
    quota = _quota()
    if quota and quota < cores:
        found = [
            warn(
                "processors",
                f"{cores} cores are seen, but the container may use {quota:g}",
                f"export OMP_NUM_THREADS={max(1, int(quota))}: more threads wait on each other",
            )
        ]
    text = os.environ.get("OMP_NUM_THREADS")
    if text is None:
        found.append(ok("threads", "one a core"))
    elif not text.strip().isdigit() or int(text) < 1:
        found.append(
            warn(
                "threads",
                f"OMP_NUM_THREADS={text!r} is no number of threads",
                "unset OMP_NUM_THREADS",
            )
        )
    elif int(text) == 1 < cores:
        found.append(
            warn(
                "threads", f"OMP_NUM_THREADS=1: one of {cores} cores works", "unset OMP_NUM_THREADS"
            )
        )
    elif int(text) > cores:
        found.append(
            warn(
                "threads",
                f"OMP_NUM_THREADS={text} on {cores} cores: they hold each other up",
                f"unset it, or export OMP_NUM_THREADS={cores}",
            )
        )
    elif os.environ.get("OMP_WAIT_POLICY", "").lower() == "active":
        found.append(
            warn(
                "threads",
                "OMP_WAIT_POLICY=active: waiting threads take cores from other processes",
                "unset OMP_WAIT_POLICY",
            )
        )
    else:
        found.append(ok("threads", f"OMP_NUM_THREADS={text}"))
    return found


def _quota() -> float | None:
    """Processors a container may use, or None without a limit."""
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


# ---------------------------------------------------------------- limits, clock, words


def open_files() -> CheckResult:
    """How many files may be open: judges hold a connection a call, workers a file a shard."""
    limit = _limit("RLIMIT_NOFILE")
    if limit is not None and limit < ENOUGH_FILES:
        return warn("open files", f"at most {limit}", "ulimit -n 4096")
    return ok("open files", f"at most {limit}" if limit else "no limit")


def file_size() -> CheckResult:
    """A limit on file sizes cuts checkpoints off."""
    limit = _limit("RLIMIT_FSIZE")
    if limit is not None and limit < 4 * GIB:
        return warn(
            "file size",
            f"at most {limit / 2**20:.0f} MiB: a bigger checkpoint fails",
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
    """A clock that stands before this version was made."""
    now = time.time()
    text = time.strftime("%Y-%m-%d %H:%M", time.localtime(now))
    if now < FIRST_YEAR:
        return fail(
            "clock",
            f"{text} is in the past: secure connections fail",
            "set the clock, for instance: timedatectl set-ntp true",
        )
    return ok("clock", text)


def words() -> CheckResult:
    """Everything here is UTF-8; a terminal or a system of another code shows ? or fails."""
    coded = {
        "output": getattr(sys.stdout, "encoding", None) or "utf-8",
        "files": locale.getpreferredencoding(False),
    }
    odd = [
        f"{name} in {code}"
        for name, code in coded.items()
        if code.lower().replace("-", "").replace("_", "") not in ("utf8", "utf8sig")
    ]
    if odd:
        return warn(
            "text",
            f"{' and '.join(odd)}, not UTF-8",
            "export LANG=C.UTF-8 PYTHONUTF8=1, and unset PYTHONIOENCODING",
        )
    return ok("text", "UTF-8")


def terminal() -> CheckResult:
    """Where the app would open: its kind and size."""
    size = _terminal_size()
    if size is None:
        return ok("terminal", "none here: not looked at")
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
            f"{size.columns}×{size.lines}: the app is made for 80×24 and more",
            "enlarge the window, or use a smaller font",
        )
    colour = ", without colour (NO_COLOR)" if os.environ.get("NO_COLOR") else ""
    return ok("terminal", f"{kind}, {size.columns}×{size.lines}{colour}")


def _terminal_size() -> os.terminal_size | None:
    for stream in (1, 2, 0):
        try:
            if os.isatty(stream):
                return os.get_terminal_size(stream)
        except OSError:
            continue
    return None
