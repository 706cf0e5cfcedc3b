"""Accelerate configs of two processes on this machine."""

from __future__ import annotations

from typing import Any

COMMON: dict[str, Any] = {
    "compute_environment": "LOCAL_MACHINE",
    "num_machines": 1,
    "num_processes": 2,
    "machine_rank": 0,
    "main_process_port": 0,
    "mixed_precision": "no",
    "use_cpu": False,
}
DDP = {**COMMON, "distributed_type": "MULTI_GPU"}
