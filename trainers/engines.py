"""What `accelerate launch` says of the engine, in the environment that it gives every process."""

from __future__ import annotations

import os
from collections.abc import Mapping


def uses_fsdp(environ: Mapping[str, str] = os.environ) -> bool:
    """Return whether models will be sharded with FSDP, of either version."""
    return environ.get("ACCELERATE_USE_FSDP", "false").lower() == "true"


def fsdp2_processes(world: int) -> int:
    """Return how many processes will shard the models with FSDP2; 1 under every other engine."""
    return world if uses_fsdp() and os.environ.get("FSDP_VERSION") == "2" else 1
