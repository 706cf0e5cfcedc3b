"""Keys that texts name. `{runs.stop:X}` in a text is the key of that action: X, or the user's."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Protocol

from textual.keys import format_key

NAMED = re.compile(r"\{([a-z]+\.[a-z-]+):([^{}]+)\}")
"""An action's name, as in settings.yaml, and its key unless settings change it."""


class NamesKeys(Protocol):
    """The app, as far as widgets that name keys know it."""

    def with_keys(self, text: str) -> str:
        """Return a text with the keys that the settings give to the actions it names."""
        ...


def with_keys(text: str, changed: Mapping[str, str]) -> str:
    """Return a text with the keys that work here.

    Args:
        text: has keys as `{action:key}`.
        changed: the first of an action's keys is named, where the settings have other ones.
    """

    def key(found: re.Match[str]) -> str:
        chosen = changed.get(found[1], "").split(",")[0].strip()
        return format_key(chosen).replace("ctrl+", "^") if chosen else found[2]

    return NAMED.sub(key, text)
