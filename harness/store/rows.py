"""Conversion of dataclasses to table rows and back; every stored text passes through here.

SQLite rejects lone surrogates, its JSON functions reject NaN, and keys must not end up in a file
that is copied and shared. All three are handled here, so that no caller has to.
"""

from __future__ import annotations

import json
from dataclasses import fields
from enum import Enum
from typing import Any, TypeVar, cast

from kdharness.harness.types import Answer, Finish, Judgment, JudgmentStatus, Run, RunStatus, digest
from kdharness.harness.util.redact import redact
from kdharness.harness.util.tables import finite

RowType = TypeVar("RowType")
JSON_FIELDS = frozenset({"config", "info", "parents"})
_ENUM_FIELDS: dict[tuple[type, str], type[Enum]] = {
    (Run, "status"): RunStatus,
    (Answer, "finish"): Finish,
    (Judgment, "status"): JudgmentStatus,
}


def stored_text(text: str) -> str:
    """Return a text as it may be stored: without lone surrogates and without keys."""
    return redact(text.encode("utf-8", "replace").decode("utf-8"))


def stored_json(value: object, *, ascii_only: bool = True) -> str:
    """Serialise plain data as JSON that SQLite can read: non-finite numbers become null."""
    try:
        text = json.dumps(value, ensure_ascii=ascii_only, sort_keys=True, allow_nan=False)
    except ValueError:
        text = json.dumps(finite(value), ensure_ascii=ascii_only, sort_keys=True)
    return stored_text(text)


def is_json(text: str | None) -> bool:
    """Return whether a stored column is readable; a config may have `Infinity`, unlike in SQL."""
    try:
        json.loads(text or "{}")
    except (TypeError, ValueError):
        return False
    return True


def encode(row: Any) -> dict[str, object]:
    """Convert a dataclass to a table row: mappings as JSON, enums as text."""
    values: dict[str, object] = {}
    for spec in fields(row):
        value = getattr(row, spec.name)
        if spec.name == "config":
            # A config may contain an infinite limit; only Python reads it.
            text = json.dumps(value, ensure_ascii=False, sort_keys=True)
            value = stored_text(text)
        elif spec.name in JSON_FIELDS:
            value = stored_json(value, ascii_only=False)
        elif isinstance(value, Enum):
            value = value.value
        elif isinstance(value, str):
            value = stored_text(value)
        values[spec.name] = value
    return values


def decode(kind: type[RowType], row: dict[str, Any]) -> RowType:
    """Invert `encode`; unknown columns are ignored so that old code can read new stores."""
    values: dict[str, Any] = {}
    for spec in fields(cast(Any, kind)):
        if spec.name not in row:
            continue
        value = row[spec.name]
        if spec.name in JSON_FIELDS:
            value = json.loads(value or "{}")
        elif (kind, spec.name) in _ENUM_FIELDS:
            value = _ENUM_FIELDS[(kind, spec.name)](value)
        values[spec.name] = value
    return kind(**values)


def unanswered_id(judge: str, checkpoint: str, place: tuple[str, str, str, int], *more: str) -> str:
    """Return the id of the failed judgment for a missing answer.

    Args:
        place: benchmark, revision, item and turn.
        more: metric and baseline, if there are several.
    """
    return digest("unanswered", judge, checkpoint, *place, *more)
