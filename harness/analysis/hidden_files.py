"""Results that are left out because another file holds their benchmark's name."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any


def hidden_files(shown: Mapping[str, Any], hidden: Iterable[Mapping[str, Any]]) -> list[str]:
    """Files of other folders whose results are left out beside `shown`, as `folder/name`.

    Such results come from stores that were put together, or from before they were refused.
    """
    names = {_tail(path) for path in (shown.get("sources") or {}).values()}
    others = {_tail(path) for note in hidden for path in (note.get("sources") or {}).values()}
    return sorted(others - names) if names else []


def _tail(path: str) -> str:
    return "/".join(path.replace("\\", "/").split("/")[-2:])
