"""The data of screens, without widgets.

The names below are imported on first use: the home screen's first paint does not wait for them.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from kdharness.harness.util.lazy import lazy_names

if TYPE_CHECKING:
    from kdharness.tui.viewmodels.drawings import Around, Drawing, IntervalLine, run_colours
    from kdharness.tui.viewmodels.overview import group_overview, run_overview
    from kdharness.tui.viewmodels.run_groups import group_fields, groups_by

__all__ = [
    "Around",
    "Drawing",
    "IntervalLine",
    "group_fields",
    "group_overview",
    "groups_by",
    "run_colours",
    "run_overview",
]


if not TYPE_CHECKING:  # else a type checker would take any name for one of this package
    __getattr__ = lazy_names(
        __name__,
        {
            "kdharness.tui.viewmodels.drawings": (
                "Around",
                "Drawing",
                "IntervalLine",
                "run_colours",
            ),
            "kdharness.tui.viewmodels.overview": ("group_overview", "run_overview"),
            "kdharness.tui.viewmodels.run_groups": ("group_fields", "groups_by"),
        },
    )
