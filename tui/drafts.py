"""Drafts: forms that were left with changes, kept in the home until they are started."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from kdharness.harness.paths import Paths
from kdharness.harness.util.atomic import atomic_write_text

KEPT = 20
"""Older drafts are dropped beyond this many."""


@dataclass(frozen=True)
class Draft:
    """One form: its values, what it started from, which it was, and text that is no config yet."""

    origin: str
    values: dict[str, Any] = field(default_factory=dict)
    base: dict[str, Any] = field(default_factory=dict)
    text: str = ""


def read_drafts(paths: Paths, form: str) -> dict[str, Draft]:
    """Return the drafts of a form by what they started from, oldest first.

    A damaged file has none: a draft must never keep a form from opening.
    """
    try:
        stored = json.loads(_file(paths).read_text("utf-8"))[form]
        drafts = [
            Draft(str(d["origin"]), dict(d["values"]), dict(d["base"]), str(d.get("text", "")))
            for d in stored
        ]
    except (OSError, ValueError, LookupError, TypeError):
        return {}
    return {draft.origin: draft for draft in drafts if "method" in draft.values}


def keep_draft(paths: Paths, form: str, draft: Draft) -> None:
    """Store a draft as the newest of its form, or drop it if it has no changes.

    Raises:
        OSError: it cannot be written.
    """
    drafts = read_drafts(paths, form)
    known = drafts.pop(draft.origin, None)
    if draft.values != draft.base or draft.text:
        drafts[draft.origin] = draft
    elif known is None:
        return
    try:
        stored = json.loads(_file(paths).read_text("utf-8"))
    except (OSError, ValueError):
        stored = {}
    stored = stored if isinstance(stored, dict) else {}
    stored[form] = [asdict(entry) for entry in list(drafts.values())[-KEPT:]]
    paths.home.mkdir(parents=True, exist_ok=True)
    atomic_write_text(_file(paths), json.dumps(stored, indent=1))


def _file(paths: Paths) -> Path:
    return paths.home / "drafts.json"
