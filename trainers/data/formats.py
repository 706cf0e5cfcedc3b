"""Detection of a row's format by its fields."""

from __future__ import annotations

from collections.abc import Mapping

from kdharness.trainers.data.fields import looks_like_turn

CHATS = {"messages": ("messages",), "sharegpt": ("conversations", "conversation")}


ANSWERS = {"prompt": ("completion", "response"), "alpaca": ("output", "response")}


def detect_format(row: object) -> str:
    """Return messages, prompt, alpaca or sharegpt by a row's fields; empty if none matches."""
    if isinstance(row, list) and row and all(map(looks_like_turn, row)):
        return "sharegpt"
    if not isinstance(row, Mapping):
        return ""
    for form, names in CHATS.items():
        if any(
            isinstance(row.get(name), (list, Mapping))
            or (isinstance(row.get(name), str) and str(row[name]).lstrip().startswith("["))
            for name in names
        ):
            return form
    if "instruction" in row and ("output" in row or ("response" in row and "prompt" not in row)):
        return "alpaca"
    if "prompt" in row and any(name in row for name in ANSWERS["prompt"]):
        return "prompt"
    return ""
