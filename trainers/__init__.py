"""How weights change: methods, losses, data, teachers, students.

For method authors: `train` runs the loop, `Objective` defines the loss. The names are imported
lazily, so that importing this package does not load torch.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from kdharness.trainers.context import TrainContext
    from kdharness.trainers.loop import train
    from kdharness.trainers.losses.fused import Mix
    from kdharness.trainers.teachers.cached import CachedTeacher
    from kdharness.trainers.teachers.online import AdapterTeacher, OnlineTeacher, Teacher
    from kdharness.trainers.trainer import Objective

__all__ = [
    "AdapterTeacher",
    "CachedTeacher",
    "Mix",
    "Objective",
    "OnlineTeacher",
    "Teacher",
    "TrainContext",
    "train",
]

_MODULES = {
    "AdapterTeacher": "teachers.online",
    "CachedTeacher": "teachers.cached",
    "Mix": "losses.fused",
    "Objective": "trainer",
    "OnlineTeacher": "teachers.online",
    "Teacher": "teachers.online",
    "TrainContext": "context",
    "train": "loop",
}


def __getattr__(name: str) -> object:
    if name not in _MODULES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(f"{__name__}.{_MODULES[name]}"), name)
