"""Control tokens that stand in the text of a row.

A tokenizer reads `<|im_end|>` in a text as the token that ends a turn: a prompt that quotes it
forges a turn, an answer that has one ends there, and a chat that is rendered already is rendered
twice.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from kdharness.harness.chat.rendering import REASONING
from kdharness.harness.errors import DataError
from kdharness.trainers.data.learning_flags import shown

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

Turn = dict[str, Any]


def control_tokens(tokenizer: PreTrainedTokenizerBase, end: str) -> re.Pattern[str]:
    """Return a regex of a tokenizer's special tokens and of its template's end of turn.

    Other added tokens, such as `<think>`, belong to a text.
    """
    special = {
        str(token.content) for token in tokenizer.added_tokens_decoder.values() if token.special
    }
    texts = sorted({text for text in (*special, end) if text.strip()}, key=len, reverse=True)
    return re.compile("|".join(map(re.escape, texts)) if texts else r"(?!)")


def first_control(turns: Sequence[Turn], control: re.Pattern[str]) -> str:
    """Return the first control token in the texts of a chat; "" if there is none."""
    for turn in turns:
        for text in (turn.get("content"), *map(turn.get, REASONING)):
            if isinstance(text, str) and (found := control.search(text)):
                return found.group()
    return ""


def without_own_ends(turns: Sequence[Turn], end: str) -> tuple[list[Turn], int]:
    """Remove the end of turn from answers that are written with it: the template writes it too.

    Returns:
        The turns, and how many answers were written so.

    Raises:
        DataError: a trained answer that continues after its end.
    """
    if not end:
        return list(turns), 0
    read, removed = [], 0
    for number, turn in enumerate(turns, 1):
        content = turn.get("content")
        if turn["role"] == "assistant" and isinstance(content, str) and end in content:
            text = content.rstrip().removesuffix(end)
            if turn.get("train", True) and end in text:
                raise DataError(
                    f"turn {number}: the answer has {end!r} in its text, which ends an answer, and "
                    f"continues: {shown(content)}",
                    hint="remove it, or set train: false on this turn",
                )
            if text != content.rstrip():
                removed += 1
                turn = {**turn, "content": text}
        read.append(turn)
    return read, removed


def added_beginning(tokenizer: PreTrainedTokenizerBase) -> int | None:
    """Return the token that a tokenizer puts before every text that is not a rendered chat."""
    ids = list(tokenizer("a")["input_ids"])
    own = tokenizer.bos_token_id
    return own if isinstance(own, int) and ids[:1] == [own] else None
