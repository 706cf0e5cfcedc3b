"""The terminal app, built with Textual.

The names below are imported on first use: the app's first paint does not wait for them.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from kdharness.harness.util.lazy import lazy_names

if TYPE_CHECKING:
    from kdharness.tui.chart_files import save_curves, save_plane

__all__ = ["save_curves", "save_plane"]


if not TYPE_CHECKING:  # else a type checker would take any name for one of this package
    __getattr__ = lazy_names(__name__, {"kdharness.tui.chart_files": ("save_curves", "save_plane")})
