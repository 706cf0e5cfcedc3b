"""What the first process does alone, while the others wait for it."""

from __future__ import annotations

from datetime import timedelta
from typing import Any

import torch.distributed as dist

from kdharness.harness.errors import KDHarnessError, RunError


def waiting_group() -> dist.ProcessGroup:
    """Return a group in which processes may wait for the first one as long as it generates.

    NCCL ends a run whose processes wait for 10 minutes.
    """
    group: dist.ProcessGroup = dist.new_group(backend="gloo", timeout=timedelta(days=7))
    return group


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
