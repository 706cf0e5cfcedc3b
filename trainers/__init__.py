"""How weights change: methods, losses, data, teachers, students.

For method authors: `train` runs the loop, `Objective` defines the loss. The names are imported
lazily, so that importing this package does not load torch.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from kdharness.harness.util.lazy import lazy_names

if TYPE_CHECKING:
    from kdharness.trainers.context import TrainContext
    from kdharness.trainers.loop import train
    from kdharness.trainers.losses.fused import Mix
    from kdharness.trainers.step import Objective
    from kdharness.trainers.teachers.cached import CachedTeacher
    from kdharness.trainers.teachers.online import AdapterTeacher, OnlineTeacher, Teacher

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


if not TYPE_CHECKING:  # else a type checker would take any name for one of this package
    __getattr__ = lazy_names(
        __name__,
        {
            "kdharness.trainers.context": ("TrainContext",),
            "kdharness.trainers.loop": ("train",),
            "kdharness.trainers.losses.fused": ("Mix",),
            "kdharness.trainers.teachers.cached": ("CachedTeacher",),
            "kdharness.trainers.teachers.online": ("AdapterTeacher", "OnlineTeacher", "Teacher"),
            "kdharness.trainers.step": ("Objective",),
        },
    )
