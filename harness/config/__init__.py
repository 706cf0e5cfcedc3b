"""What a user may write: run configs, evaluation settings, engine specs, the settings file.

Public names are imported on first use, so that importing the package does not load pydantic.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from kdharness.harness.util.lazy import lazy_names

if TYPE_CHECKING:
    from kdharness.harness.config.base import RunConfig, Settings
    from kdharness.harness.config.data import DataSpec
    from kdharness.harness.config.evaluation import EvalConfig
    from kdharness.harness.config.files import load_config, parse_config
    from kdharness.harness.config.merging import MergeConfig
    from kdharness.harness.config.models import Student, Teacher
    from kdharness.harness.config.trainer import DistillSpec, TrainerSpec
    from kdharness.harness.config.training import DAEConfig, KDConfig, SFTConfig

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


if not TYPE_CHECKING:  # else a type checker would take any name for one of this package
    __getattr__ = lazy_names(
        __name__,
        {
            "kdharness.harness.config.base": ("RunConfig", "Settings"),
            "kdharness.harness.config.data": ("DataSpec",),
            "kdharness.harness.config.evaluation": ("EvalConfig",),
            "kdharness.harness.config.files": ("load_config", "parse_config"),
            "kdharness.harness.config.merging": ("MergeConfig",),
            "kdharness.harness.config.models": ("Student", "Teacher"),
            "kdharness.harness.config.trainer": ("DistillSpec", "TrainerSpec"),
            "kdharness.harness.config.training": ("DAEConfig", "KDConfig", "SFTConfig"),
        },
    )
