"""Rows of training data, read as chats or refused."""

from __future__ import annotations

from typing import Any

import pytest

from kdharness.harness.errors import DataError
from kdharness.trainers.data.sources import to_chat

ASK = {"role": "user", "content": "What colour?"}
RED = {"role": "assistant", "content": "Red."}
CALL = {"type": "function", "function": {"name": "rain", "arguments": {"town": "Oslo"}}}


def read_chat(row: Any, form: str = "auto") -> dict[str, Any]:
    """A row as the chat that it is."""
    return to_chat(row, form, "rows.jsonl:3")


def read_messages(row: Any, form: str = "auto") -> list[dict[str, Any]]:
    """Its turns."""
    found: list[dict[str, Any]] = read_chat(row, form)["messages"]
    return found


def refusal_of(row: Any, form: str = "auto") -> str:
    """The message of a refusal, which names the place and shows no Python."""
    with pytest.raises(DataError) as caught:
        to_chat(row, form, "rows.jsonl:3")
    text = str(caught.value)
    assert text.startswith("rows.jsonl:3: ")
    for word in ("KeyError", "NoneType", "Traceback", "object has no", "dict'", "(char "):
        assert word not in text
    return text
