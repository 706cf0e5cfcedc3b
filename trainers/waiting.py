"""Waiting for the first process of a run, for as long as its work takes.

NCCL ends a run whose processes have waited for its timeout, which is right for a step's collectives
and wrong for what one process does alone: download a model, cut a student, write a checkpoint to a
slow disk, generate answers.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from datetime import timedelta
from functools import cache
from typing import Any

import torch.distributed as dist
from accelerate import PartialState

from kdharness.harness.errors import KDHarnessError, RunError
from kdharness.harness.protocols import Job

# What transformers gives a step's collectives (`ddp_timeout`); NCCL's own is a third of it.
STEP_TIMEOUT = timedelta(minutes=30)


@cache
def waiting_group() -> dist.ProcessGroup:
    """Return the group in which processes wait; the first call must be made in all of them."""
    group: dist.ProcessGroup = dist.new_group(backend="gloo", timeout=timedelta(days=7))
    return group


def wait_for_all() -> None:
    """Return when every process has come here; at once outside of a distributed run."""
    if dist.is_initialized() and dist.get_world_size() > 1:
        dist.barrier(group=waiting_group())


def from_first(value: Any, group: dist.ProcessGroup | None) -> Any:
    """Return the first process's value, or its error, in all of a group; without one, the value."""
    if group is None:
        return value
    box = [value if not isinstance(value, KDHarnessError) else str(value)]
    failed = [isinstance(value, KDHarnessError)]
    dist.broadcast_object_list(failed, group=group)
    dist.broadcast_object_list(box, group=group)
    if failed[0] and not isinstance(value, KDHarnessError):
        return RunError(box[0])
    return value if isinstance(value, KDHarnessError) else box[0]


@contextmanager
def main_first(job: Job, device: str) -> Iterator[None]:
    """Run the body on rank 0 first, so that the other processes find what it made."""
    if job.world > 1:
        PartialState(cpu=device == "cpu", timeout=STEP_TIMEOUT)  # starts the process group
        waiting_group()
    if not job.is_main:
        wait_for_all()
    yield
    if job.is_main:
        wait_for_all()
