"""Rows of a held-out set, in every format that training supports.

Chats as `messages` or `prompt` and `response` are kept as they are in the file, because identities
are hashes of them; every other format is read by the reader of training data.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

from kdharness.harness.config.data import SourceSpec
from kdharness.harness.errors import DataError
from kdharness.harness.registry import TOOLS, resolve
from kdharness.harness.types import digest
from kdharness.harness.util.filesystem import exists
from kdharness.judges.benchmarks.base import read_jsonl

_ROW_KEYS = frozenset({"id", "category", "messages", "prompt", "response", "truncated"})
_TURN_KEYS = frozenset({"role", "content"})
_ROLES = frozenset({"system", "user", "assistant", "tool"})


@dataclass(frozen=True)
class HeldoutRow:
    """One chat of one set."""

    set: str
    id: str
    category: str
    messages: tuple[dict[str, Any], ...]
    truncated: bool = False
    max_length: int | None = None
    tools: tuple[dict[str, Any], ...] = ()
    variables: dict[str, Any] = field(default_factory=dict)

    @property
    def item(self) -> str:
        """The row's id as an item of the benchmark."""
        return f"{self.set}/{self.id}"

    @cached_property
    def key(self) -> str:
        """The hash of the row, for identities."""
        more = [list(self.tools), self.variables] if self.tools or self.variables else []
        return digest(
            self.set, self.id, list(self.messages), self.truncated, self.max_length, *more
        )


def read_chats(path: Path, name: str, max_length: int) -> list[HeldoutRow]:
    """Read every row of a file as a chat of the set `name`.

    Raises:
        DataError: a row that is not a chat, or a duplicate id, with its line.
    """
    if not exists(path, folder=False):
        raise DataError("no such held-out file", where=str(path))
    numbered = _jsonl(path)
    chats: list[dict[str, Any]]
    if numbered and all(_needs_no_reading(raw) for _, raw in numbered):
        chats = [
            {"messages": _messages(raw), "truncated": raw.get("truncated")} for _, raw in numbered
        ]
    else:
        read: Any = resolve(TOOLS, "read_source", "tool")
        chats = read(SourceSpec(path=str(path)))
        if len(numbered) != len(chats):
            # Parquet and the like: rows are identified by their index.
            numbered = [(number, {}) for number in range(1, len(chats) + 1)]
    rows, seen = [], dict[str, int]()
    for (number, raw), chat in zip(numbered, chats, strict=True):
        row = HeldoutRow(
            name,
            _label(raw, "id", str(number)),
            _label(raw, "category", ""),
            tuple(_kept(_messages(raw), chat["messages"])),
            bool(chat["truncated"]),
            max_length,
            tuple(chat.get("tools") or ()),
            dict(chat.get("variables") or {}),
        )
        if row.id in seen:
            raise DataError(
                f"duplicate id {row.id!r}, also on line {seen[row.id]}",
                where=f"{path}, line {number}",
            )
        seen[row.id] = number
        rows.append(row)
    return rows


def _jsonl(path: Path) -> list[tuple[int, dict[str, Any]]]:
    """Return (line number, object) of a JSONL file's rows; empty for another kind of file."""
    if path.suffix == ".parquet":
        return []
    try:
        return read_jsonl(path)
    except DataError:
        # The reader of training data reports the error if it cannot read the file either.
        return []


def _label(raw: dict[str, Any], field: str, default: str) -> str:
    value = raw.get(field)
    return default if value is None else str(value)


def _messages(raw: dict[str, Any]) -> list[dict[str, Any]]:
    """Return the turns as they are in the row; empty if it has another format."""
    if raw.get("messages") is None and "prompt" in raw and "response" in raw:
        return [
            {"role": "user", "content": raw["prompt"]},
            {"role": "assistant", "content": raw["response"]},
        ]
    turns = raw.get("messages")
    return turns if isinstance(turns, list) and all(isinstance(t, dict) for t in turns) else []


def _needs_no_reading(raw: dict[str, Any]) -> bool:
    """Return whether a row has turns of role and text, and no field that needs interpretation."""
    turns = _messages(raw)
    return (
        bool(turns)
        and set(raw) <= _ROW_KEYS
        and all(
            set(turn) == _TURN_KEYS and turn["role"] in _ROLES and isinstance(turn["content"], str)
            for turn in turns
        )
    )


def _kept(original: list[dict[str, Any]], read: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Return the original turns if training reads the same: identities are hashes of them."""

    def essential(turns: list[dict[str, object]]) -> list[list[Any]]:
        return [[turn.get(field) for field in ("role", "content", "train")] for turn in turns]

    return original if essential(original) == essential(read) else read
