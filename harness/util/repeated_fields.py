"""JSON objects that have a field twice, of which its readers keep the last and say nothing."""

from __future__ import annotations

import json
from typing import Any


class RepeatedFieldError(ValueError):
    """An object has a field twice."""


def _without_repeats(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    fields = dict(pairs)
    if len(fields) < len(pairs):
        names = [name for name, _ in pairs]
        twice = next(name for name in names if names.count(name) > 1)
        raise RepeatedFieldError(f"the field {twice[:80]!r} is given twice")
    return fields


ONCE_EACH = json.JSONDecoder(object_pairs_hook=_without_repeats)
"""Reads JSON, and raises RepeatedFieldError for an object that has a field twice."""
