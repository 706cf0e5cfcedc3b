"""Screens and dialogs of the app.

The names below are imported on first use: the first paint does not wait for these screens.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from kdharness.harness.util.lazy import lazy_names

if TYPE_CHECKING:
    from kdharness.tui.screens.care import care_for, choose_and_care
    from kdharness.tui.screens.dialogs import Ask, Choose, Confirm
    from kdharness.tui.screens.evaluate import EvaluateScreen
    from kdharness.tui.screens.experiments import ExperimentsScreen
    from kdharness.tui.screens.help import TextDialog, help_text, key_lines
    from kdharness.tui.screens.new_run import NewRunScreen
    from kdharness.tui.screens.run import RunScreen

__all__ = [
    "Ask",
    "Choose",
    "Confirm",
    "EvaluateScreen",
    "ExperimentsScreen",
    "NewRunScreen",
    "RunScreen",
    "TextDialog",
    "care_for",
    "choose_and_care",
    "help_text",
    "key_lines",
]


if not TYPE_CHECKING:  # else a type checker would take any name for one of this package
    __getattr__ = lazy_names(
        __name__,
        {
            "kdharness.tui.screens.care": ("care_for", "choose_and_care"),
            "kdharness.tui.screens.dialogs": ("Ask", "Choose", "Confirm"),
            "kdharness.tui.screens.evaluate": ("EvaluateScreen",),
            "kdharness.tui.screens.experiments": ("ExperimentsScreen",),
            "kdharness.tui.screens.help": ("TextDialog", "help_text", "key_lines"),
            "kdharness.tui.screens.new_run": ("NewRunScreen",),
            "kdharness.tui.screens.run": ("RunScreen",),
        },
    )
