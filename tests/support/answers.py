"""An answer with the fields that a test names."""

from __future__ import annotations

from typing import Any

from kdharness.harness.types import Answer, Finish


def make_answer(text: str, **fields: Any) -> Answer:
    """Return an answer with this text; other fields have values that no test depends on."""
    values: dict[str, Any] = {
        "id": "a",
        "checkpoint": "c",
        "bench": "b",
        "revision": "",
        "item": "1",
        "turn": 1,
        "finish": Finish.STOP,
        "prompt_hash": "",
        "settings": "",
        "created": 1.0,
    }
    return Answer(text=text, **{**values, **fields})
