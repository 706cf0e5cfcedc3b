"""Runs, the store, evaluation and statistics; the Python API is `Home`.

Public names are imported on first use, so that importing the package is cheap.
"""

from __future__ import annotations

import importlib
import logging
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from kdharness.harness.analysis.compare import PairedComparison
    from kdharness.harness.analysis.tradeoff_groups import TradeOff
    from kdharness.harness.config.files import load_config
    from kdharness.harness.errors import KDHarnessError
    from kdharness.harness.home import Home
    from kdharness.harness.types import Checkpoint, Run, Score

__all__ = [
    "Checkpoint",
    "Home",
    "KDHarnessError",
    "PairedComparison",
    "Run",
    "Score",
    "TradeOff",
    "load_config",
]

_MODULES = {
    "Checkpoint": "types",
    "Home": "home",
    "KDHarnessError": "errors",
    "PairedComparison": "analysis.compare",
    "Run": "types",
    "Score": "types",
    "TradeOff": "analysis.tradeoff_groups",
    "load_config": "config.files",
}

# A library does not log unless its user configures logging.
logging.getLogger("kdharness").addHandler(logging.NullHandler())


def __getattr__(name: str) -> object:
    if name not in _MODULES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(f"{__name__}.{_MODULES[name]}"), name)


def __dir__() -> list[str]:
    return sorted([*globals(), *__all__])
