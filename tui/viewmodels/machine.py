"""What this machine is doing: GPUs, processors, memory and disk. No widgets.

GPUs are read through nvidia-ml-py where it is installed; every figure that a driver does not give
(on parts of a GPU, in some virtual machines) is left out, never guessed.
"""

from __future__ import annotations

import importlib
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

from rich.cells import cell_len

from kdharness.harness.util.filesystem import free_bytes
from kdharness.tui.viewmodels.rows import Line

GIB = 2**30
CGROUP = Path("/sys/fs/cgroup")
HOT, FULL, LOW_DISK = 87.0, 0.95, 5 * GIB
"""From which temperature (°C), which share of memory, and below which free disk it warns."""


class Gpu(NamedTuple):
    """One GPU: its load (share), memory (bytes), temperature (°C) and power (W), where known."""

    load: float | None = None
    used: int | None = None
    total: int | None = None
    celsius: float | None = None
    watts: float | None = None


class Machine(NamedTuple):
    """The machine at one moment; shares are 0 to 1, sizes in bytes."""

    cpu: float | None = None
    used: int = 0
    total: int = 0
    disk: int | None = None
    gpus: tuple[Gpu, ...] = ()


# ---------------------------------------------------------------- reading


class Sampler:
    """Reads the machine again and again; NVML is opened once, and not again where there is none."""

    def __init__(self, home: Path) -> None:
        self.home = home
        self._handles: list[Any] | None = None
        self._nvml: Any = None
        self._seen_cpu = False

    def read(self) -> Machine:
        """Return the machine now; the load of processors from the second call on."""
        psutil: Any = importlib.import_module("psutil")
        busy = _known(lambda: psutil.cpu_percent(None) / 100)
        busy, self._seen_cpu = busy if self._seen_cpu else None, True
        memory = _known(psutil.virtual_memory)
        used, total = 0, 0
        if memory is not None:
            used, total = _within_limit(memory.total - memory.available, memory.total)
        return Machine(busy, used, total, _free_disk(self.home), self.gpus())

    def gpus(self) -> tuple[Gpu, ...]:
        """Return the state of every GPU that the driver shows."""
        if self._handles is None:
            self._open()
        return tuple(self._read(handle) for handle in self._handles or ())

    def _open(self) -> None:
        self._handles = []
        try:
            nvml = importlib.import_module("pynvml")
            nvml.nvmlInit()
            self._nvml = nvml
            count = nvml.nvmlDeviceGetCount()
        except Exception:  # no package, no driver, or one that does not match
            return
        for index in range(count):
            handle = _known(partial(nvml.nvmlDeviceGetHandleByIndex, index))
            if handle is not None:
                self._handles.append(handle)

    def _read(self, handle: Any) -> Gpu:
        nvml = self._nvml
        memory = _known(lambda: nvml.nvmlDeviceGetMemoryInfo(handle))
        load = _known(lambda: float(nvml.nvmlDeviceGetUtilizationRates(handle).gpu))
        power = _known(lambda: float(nvml.nvmlDeviceGetPowerUsage(handle)))
        return Gpu(
            load=None if load is None else load / 100,
            used=None if memory is None else int(memory.used),
            total=None if memory is None else int(memory.total),
            celsius=_known(
                lambda: float(nvml.nvmlDeviceGetTemperature(handle, nvml.NVML_TEMPERATURE_GPU))
            ),
            watts=None if power is None else power / 1000,
        )


def _known(ask: Callable[[], Any]) -> Any:
    """Return what a driver or the system says, or None.

    Any call may be unsupported, a GPU be lost, or /proc be hidden: the app goes on without it.
    """
    try:
        return ask()
    except Exception:  # NVMLError, of a package that may not be there, or psutil's
        return None


def _within_limit(used: int, total: int) -> tuple[int, int]:
    """Return memory within a container's limit, if it has one: caches that can go do not count."""
    limit, current = (_number(CGROUP / name) for name in ("memory.max", "memory.current"))
    if limit is None or current is None or limit >= total:
        return used, total
    try:
        stat = dict(line.split() for line in (CGROUP / "memory.stat").read_text().splitlines())
        current -= int(stat.get("inactive_file", 0))
    except (OSError, ValueError):
        pass
    return max(current, 0), limit


def _number(path: Path) -> int | None:
    try:
        return int(path.read_text("utf-8"))
    except (OSError, ValueError):
        return None


def _free_disk(home: Path) -> int | None:
    """Return the free space where the home is, or will be."""
    try:
        return free_bytes(home)
    except OSError:
        return None


# ---------------------------------------------------------------- showing


def machine_line(machine: Machine, width: int) -> Line:
    """Return the machine in one line that fits; the last parts are left out first."""
    parts = [
        *_gpu_parts(machine.gpus, room=width),
        *([[(f"CPU {machine.cpu:.0%}", "")]] if machine.cpu is not None else []),
        *([_memory("memory", machine.used, machine.total)] if machine.total else []),
        *([_disk(machine.disk)] if machine.disk is not None else []),
    ]
    line: Line = []
    used = 0
    for part in parts:
        size = sum(cell_len(text) for text, _ in part) + (3 if line else 0)
        if used + size > width:
            break
        line += [("   ", ""), *part] if line else part
        used += size
    return line


def _gpu_parts(gpus: Sequence[Gpu], room: int) -> list[Line]:
    """Return each GPU, or all together where they do not fit beside the rest."""
    each = [
        _gpu_part(f"GPU {index}" if len(gpus) > 1 else "GPU", gpu) for index, gpu in enumerate(gpus)
    ]
    rest = 44
    size = sum(cell_len(text) for part in each for text, _ in part) + 3 * len(each)
    if len(gpus) > 1 and size + rest > room:
        return [_together(gpus)]
    return each


def _gpu_part(title: str, gpu: Gpu) -> Line:
    line: Line = [(title, "strong")]
    if gpu.load is not None:
        line.append((f" {gpu.load:.0%}", ""))
    if gpu.used is not None and gpu.total:
        line += _memory("", gpu.used, gpu.total)
    if gpu.celsius is not None:
        line.append((f" {gpu.celsius:.0f} °C", "warn" if gpu.celsius >= HOT else ""))
    if gpu.watts is not None:
        line.append((f" {gpu.watts:.0f} W", ""))
    return line


def _together(gpus: Sequence[Gpu]) -> Line:
    """Return several GPUs as one: mean load, all memory, the hottest, all power."""
    loads = [gpu.load for gpu in gpus if gpu.load is not None]
    sizes = [(gpu.used, gpu.total) for gpu in gpus if gpu.used is not None and gpu.total]
    heats = [gpu.celsius for gpu in gpus if gpu.celsius is not None]
    powers = [gpu.watts for gpu in gpus if gpu.watts is not None]
    whole = Gpu(
        load=sum(loads) / len(loads) if loads else None,
        used=sum(used for used, _ in sizes) if sizes else None,
        total=sum(total for _, total in sizes) if sizes else None,
        celsius=max(heats, default=None),
        watts=sum(powers) if powers else None,
    )
    return _gpu_part(f"{len(gpus)} GPUs", whole)


def _memory(title: str, used: int, total: int) -> Line:
    role = "warn" if total and used / total > FULL else ""
    digits = 0 if total >= 100 * GIB else 1
    text = f"{used / GIB:.{digits}f}/{total / GIB:.{digits}f} GiB"
    return [(f"{title} {text}", role)]


def _disk(free: int) -> Line:
    return [(f"disk {free / GIB:.0f} GiB free", "warn" if free < LOW_DISK else "")]
