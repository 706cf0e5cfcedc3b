"""The data of screens, without widgets.

The name below is imported on first use: the home screen's first paint does not wait for it.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from kdharness.harness.util.lazy import lazy_names

if TYPE_CHECKING:
    from kdharness.tui.viewmodels.overview import run_overview

__all__ = ["run_overview"]


if not TYPE_CHECKING:  # else a type checker would take any name for one of this package
    __getattr__ = lazy_names(__name__, {"kdharness.tui.viewmodels.overview": ("run_overview",)})
