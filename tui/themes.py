"""The four themes.

All symbols differ in shape as well as in colour, so that each screen is readable under `NO_COLOR`,
on white terminals and with red-green colour blindness.
"""

from __future__ import annotations

from dataclasses import replace

from textual.theme import BUILTIN_THEMES, Theme

DARK = Theme(
    name="dark",
    dark=True,
    primary="#7aa2f7",
    secondary="#7dcfff",
    accent="#e0af68",
    foreground="#d5d9e8",
    background="#14161f",
    surface="#1a1d29",
    panel="#232738",
    success="#8fd19e",
    warning="#e5b567",
    error="#ff7a85",
    variables={
        "quiet": "#8b91a8",
        "series-1": "#56b4e9",
        "series-2": "#e69f00",
        "series-3": "#cc79a7",
        "series-4": "#2fd6a3",
        "series-5": "#e8743b",
        "series-6": "#b4a7f5",
        "cursor-bg": "#33405f",
        "cursor-fg": "#ffffff",
        "input-selection-background": "#33405f",
    },
)
LIGHT = Theme(
    name="light",
    dark=False,
    primary="#2456c7",
    secondary="#00718f",
    accent="#8a5a00",
    foreground="#1c1f2a",
    background="#fbfbf8",
    surface="#f3f3ee",
    panel="#e6e6df",
    success="#1d6f3a",
    warning="#8a5a00",
    error="#b3202c",
    variables={
        "quiet": "#62677a",
        "series-1": "#0060a8",
        "series-2": "#a85c00",
        "series-3": "#a0347a",
        "series-4": "#00755a",
        "series-5": "#b3261e",
        "series-6": "#5b4bb5",
        "cursor-bg": "#cfdcf8",
        "cursor-fg": "#10131c",
        "input-selection-background": "#cfdcf8",
    },
)
CONTRAST = Theme(
    name="high-contrast",
    dark=True,
    primary="#ffffff",
    secondary="#00ffff",
    accent="#ffff00",
    foreground="#ffffff",
    background="#000000",
    surface="#000000",
    panel="#1c1c1c",
    success="#00ff00",
    warning="#ffff00",
    error="#ff6060",
    variables={
        "quiet": "#d0d0d0",
        "series-1": "#00d7ff",
        "series-2": "#ffd700",
        "series-3": "#ff87ff",
        "series-4": "#5fff5f",
        "series-5": "#ffaf87",
        "series-6": "#afafff",
        "cursor-bg": "#ffff00",
        "cursor-fg": "#000000",
        "input-selection-background": "#5f5f00",
    },
)
_ANSI_EXTRA = {
    "quiet": "ansi_bright_black",
    "series-1": "ansi_cyan",
    "series-2": "ansi_yellow",
    "series-3": "ansi_magenta",
    "series-4": "ansi_green",
    "series-5": "ansi_bright_red",
    "series-6": "ansi_bright_blue",
    "cursor-bg": "ansi_blue",
    "cursor-fg": "ansi_bright_white",
}
ANSI = replace(
    BUILTIN_THEMES["ansi-dark"],
    name="ansi",
    primary="ansi_bright_cyan",
    variables={**BUILTIN_THEMES["ansi-dark"].variables, **_ANSI_EXTRA},
)

THEMES = {theme.name: theme for theme in (DARK, LIGHT, ANSI, CONTRAST)}
