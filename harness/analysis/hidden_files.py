"""Results that are hidden because another file uses the same benchmark name."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any


def hidden_files(shown: Mapping[str, Any], hidden: Iterable[Mapping[str, Any]]) -> list[str]:
    """Return the files of other folders that `shown` hides, as `folder/name`.

    Such results come from merged stores, or from versions that did not refuse them.
    """
    own = {_tail(path) for path in (shown.get("sources") or {}).values()}
    others = {_tail(path) for note in hidden for path in (note.get("sources") or {}).values()}
    return sorted(others - own) if own else []


def _tail(path: str) -> str:
    return "/".join(path.replace("\\", "/").split("/")[-2:])
