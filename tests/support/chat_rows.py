"""Training rows, read as chats or rejected."""

from __future__ import annotations

from typing import Any

import pytest

from kdharness.harness.errors import DataError
from kdharness.trainers.data.sources import to_chat

ASK = {"role": "user", "content": "What colour?"}
RED = {"role": "assistant", "content": "Red."}
CALL = {"type": "function", "function": {"name": "rain", "arguments": {"town": "Oslo"}}}


def read_chat(row: Any, form: str = "auto") -> dict[str, Any]:
    """Read a row as a chat."""
    return to_chat(row, form, "rows.jsonl:3")


def read_messages(row: Any, form: str = "auto") -> list[dict[str, Any]]:
    """Read the turns of a row."""
    messages: list[dict[str, Any]] = read_chat(row, form)["messages"]
    return messages


def error_message_of(row: Any, form: str = "auto") -> str:
    """Return the error message of a rejected row, which names the line and shows no Python."""
    with pytest.raises(DataError) as caught:
        to_chat(row, form, "rows.jsonl:3")
    text = str(caught.value)
    assert text.startswith("rows.jsonl:3: ")
    for word in ("KeyError", "NoneType", "Traceback", "object has no", "dict'", "(char "):
        assert word not in text
    return text
