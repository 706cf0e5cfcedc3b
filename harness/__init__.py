"""Runs, the store, evaluation and statistics; the Python API is `Home`.

Public names are imported on first use, so that importing the package is cheap.
"""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING

from kdharness.harness.util.lazy import lazy_names

if TYPE_CHECKING:
    from kdharness.harness.analysis.compare import PairedComparison
    from kdharness.harness.analysis.tradeoff_groups import TradeOff
    from kdharness.harness.config.files import load_config
    from kdharness.harness.errors import ConfigError, Interrupted, KDHarnessError, RunError
    from kdharness.harness.home import Home
    from kdharness.harness.types import Checkpoint, Run, Score

__all__ = [
    "Checkpoint",
    "ConfigError",
    "Home",
    "Interrupted",
    "KDHarnessError",
    "PairedComparison",
    "Run",
    "RunError",
    "Score",
    "TradeOff",
    "load_config",
]


# A library does not log unless its user configures logging.
logging.getLogger("kdharness").addHandler(logging.NullHandler())


if not TYPE_CHECKING:  # else a type checker would take any name for one of this package
    __getattr__ = lazy_names(
        __name__,
        {
            "kdharness.harness.analysis.compare": ("PairedComparison",),
            "kdharness.harness.analysis.tradeoff_groups": ("TradeOff",),
            "kdharness.harness.config.files": ("load_config",),
            "kdharness.harness.errors": (
                "ConfigError",
                "Interrupted",
                "KDHarnessError",
                "RunError",
            ),
            "kdharness.harness.home": ("Home",),
            "kdharness.harness.types": ("Checkpoint", "Run", "Score"),
        },
    )


def __dir__() -> list[str]:
    return sorted([*globals(), *__all__])
