"""What a user may write: run configs, evaluation settings, engine specs, the settings file.

Public names are imported on first use, so that importing the package does not load pydantic.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from kdharness.harness.config.base import RunConfig, Settings
    from kdharness.harness.config.data import DataSpec
    from kdharness.harness.config.evaluation import EvalConfig
    from kdharness.harness.config.files import load_config, parse_config
    from kdharness.harness.config.merging import MergeConfig
    from kdharness.harness.config.models import Student, Teacher
    from kdharness.harness.config.training import (
        DAEConfig,
        DistillSpec,
        KDConfig,
        SFTConfig,
        TrainerSpec,
    )

__all__ = [
    "DAEConfig",
    "DataSpec",
    "DistillSpec",
    "EvalConfig",
    "KDConfig",
    "MergeConfig",
    "RunConfig",
    "SFTConfig",
    "Settings",
    "Student",
    "Teacher",
    "TrainerSpec",
    "load_config",
    "parse_config",
]

_MODULES = {
    "base": ("RunConfig", "Settings"),
    "data": ("DataSpec",),
    "evaluation": ("EvalConfig",),
    "files": ("load_config", "parse_config"),
    "merging": ("MergeConfig",),
    "models": ("Student", "Teacher"),
}


def __getattr__(name: str) -> object:
    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    module = next((m for m, names in _MODULES.items() if name in names), "training")
    return getattr(importlib.import_module(f"{__name__}.{module}"), name)
