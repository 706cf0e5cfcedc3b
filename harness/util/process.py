"""This process: its cores, and settings that must be made before libraries load."""

from __future__ import annotations

import logging
import os
import platform
from collections.abc import Mapping, MutableMapping, Sequence
from pathlib import Path


def usable_cores() -> int:
    """Return how many cores this process may use; on macOS, those of the machine."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def set_passive_omp_wait() -> None:
    """Make OpenMP threads sleep instead of spin at barriers; call before torch is imported.

    Two busy torch processes that spin on the same cores slow each other down several times over
    (measured on 2 cores: 8 to 30 tokens/s spinning, 41 to 53 sleeping), and training while
    evaluating on one machine is the normal case. A value that the user set is kept.
    """
    os.environ.setdefault("OMP_WAIT_POLICY", "passive")


M_TRIM_THRESHOLD, M_MMAP_THRESHOLD, M_MMAP_MAX = -1, -3, -4
LARGEST_KEPT = 1 << 30


def keep_freed_memory(gpus: int) -> bool:
    """Make glibc keep freed blocks of up to 1 GiB for what is allocated next.

    By default blocks of 32 MiB or more go back to the system at once, and each training step on a
    CPU has the same pages mapped and zeroed again: 370,000 page faults in a step of a model of
    135M parameters, 27,000 with this, and 0.86 of the time for 1.08 of the memory. What the user
    set is kept.

    Args:
        gpus: number of GPUs; with one, models are in its memory, and nothing is done.

    Returns:
        Whether it was done; not so with another C library.
    """
    chosen = ("MALLOC_MMAP_THRESHOLD_", "MALLOC_TRIM_THRESHOLD_", "MALLOC_MMAP_MAX_")
    tuned = "glibc.malloc" in os.environ.get("GLIBC_TUNABLES", "")
    if gpus or tuned or any(name in os.environ for name in chosen):
        return False
    if platform.libc_ver()[0] != "glibc":
        return False
    import ctypes

    mallopt = ctypes.CDLL(None).mallopt
    # Older versions refuse thresholds above 32 MiB, but can do without mappings.
    kept = mallopt(M_MMAP_THRESHOLD, LARGEST_KEPT) or mallopt(M_MMAP_MAX, 0)
    # -1: never give the end of the heap back.
    return bool(kept and mallopt(M_TRIM_THRESHOLD, -1))


OURS = ("PYTHONSAFEPATH", "PYTHONUNBUFFERED")
"""Variables that our own processes have, and others should not inherit."""


def child_environment(**values: str) -> dict[str, str]:
    """Return the environment of a Python process of ours, with further variables.

    `python -m` puts the working directory first among the places of modules, for its children
    too: a user's `random.py` or `datasets.py` there would be imported in place of the library.
    """
    return {**os.environ, "PYTHONSAFEPATH": "1", **values}


def quiet_torchao() -> None:
    """Hide what torchao, which transformers imports where it is installed, logs at its import.

    It names its CUDA kernels that a CPU build of torch cannot load; nothing here uses them.
    """
    for name in ("torchao", "torch.utils._pytree"):
        logging.getLogger(name).setLevel(logging.ERROR)


def quiet_hub() -> None:
    """Hide the hub client's messages about each retry: what cannot be reached is said once, by us.

    A verbosity that the user set is kept.
    """
    os.environ.setdefault("HF_HUB_VERBOSITY", "error")


def use_one_gpu(
    device: str, environ: MutableMapping[str, str], installed: int
) -> tuple[str, str, int]:
    """Make one GPU the only one that this process sees; call before torch starts CUDA.

    Trainers that see several would split batches over them with `nn.DataParallel`, and put the
    model on the first whatever device was asked for.

    Args:
        device: auto, cuda or cuda:N; any other is left alone.
        environ: the process's environment; `CUDA_VISIBLE_DEVICES` is read and set.
        installed: number of GPUs of the machine; 0 if unknown.

    Returns:
        (device, GPU, number of GPUs): the device to use from now on; which GPU it is, as in
        `CUDA_VISIBLE_DEVICES`; and how many there were, 0 if unknown. The GPU is empty if nothing
        was chosen.
    """
    kind, _, index = device.partition(":")
    if kind not in ("auto", "cuda") or not (index or "0").isdecimal():
        return device, "", 0
    visible = environ.get("CUDA_VISIBLE_DEVICES")
    names = visible_gpus(environ, installed)
    wanted = int(index or 0)
    if visible is None and not installed and index:
        # How many there are is unknown; one that does not exist is reported when it is used.
        environ["CUDA_VISIBLE_DEVICES"] = index
        return kind, index, 0
    if wanted >= len(names):
        return device, "", len(names)
    environ["CUDA_VISIBLE_DEVICES"] = names[wanted]
    return kind, names[wanted], len(names)


def visible_gpus(environ: Mapping[str, str], installed: int) -> list[str]:
    """Return the GPUs that a process may use, as CUDA names them.

    Args:
        environ: the process's environment, of which `CUDA_VISIBLE_DEVICES` is read.
        installed: number of GPUs of the machine; 0 if unknown.
    """
    visible = environ.get("CUDA_VISIBLE_DEVICES")
    names = [str(n) for n in range(installed)] if visible is None else visible.split(",")
    names = [name.strip() for name in names]
    if "-1" in names:
        # What CUDA does: it sees those before the first invalid one.
        names = names[: names.index("-1")]
    return [name for name in names if name]


def machine_share(
    slot: int,
    abreast: int,
    device: str,
    environ: Mapping[str, str],
    cores: int,
    gpus: Sequence[str],
) -> dict[str, str]:
    """Return the variables that give a process its share of the machine beside others.

    On a CPU that is its part of the cores; what the user set is kept. With several GPUs it is one
    of them, unless its config names one.

    Args:
        slot: its place among those that run at once, from 0.
        abreast: how many run at once.
        device: as in a config.
        environ: the environment that it would inherit.
        cores: number of cores.
        gpus: those that may be used, as CUDA names them.
    """
    if gpus and device in ("auto", "cuda"):
        return {"CUDA_VISIBLE_DEVICES": gpus[slot % len(gpus)]} if len(gpus) > 1 else {}
    if abreast < 2 or "OMP_NUM_THREADS" in environ:
        return {}
    return {"OMP_NUM_THREADS": str(max(1, cores // abreast))}


def count_gpus() -> int:
    """Return the number of NVIDIA GPUs of this machine, without a library; 0 if unknown."""
    return len(list(Path("/proc/driver/nvidia/gpus").glob("*")))
