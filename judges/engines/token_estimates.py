"""How many tokens a text has, guessed from its characters. Pure."""

from __future__ import annotations

import re
from collections.abc import Sequence

from kdharness.harness.types import GenerationRequest, Message

LEAST_SURE = 1_000
"""Tokens that a prompt must surely have before its count is held against it."""


LEAST_COUNT = 256
"""A smaller count of a long prompt is not that of a cut one: no context is so short."""


MOST_CHARACTERS = 6
"""For each token of a long text: ordinary ones have three to five."""


_RUNS = re.compile(r"([^\w\s])\1+")


_SIGNS = re.compile(r"[^\w\s]+")


_DENSE = re.compile(r"[\u3040-\u30ff\u3400-\u9fff\uac00-\ud7af\uf900-\ufaff]")


def estimated_tokens(text: str) -> int:
    """About how many tokens a text has: a quarter of its bytes."""
    return len(text.encode("utf-8", "replace")) // 4


def prompt_estimate(request: GenerationRequest) -> int:
    """About how many tokens a prompt has."""
    return sum(estimated_tokens(message["content"]) for message in request.messages) + 8


def least_tokens(messages: Sequence[Message]) -> int:
    """Return a number of tokens that no tokenizer stays below for these texts.

    A word is at least a token, and a long one a token for nine characters; blanks, signs and
    their runs may be any number of them to a token, and so count for nothing. Scripts without
    blanks have at most four signs to a token. A quarter is left off: some tokenizers join words.
    """
    least = 0.0
    for message in messages:
        text = message["content"]
        least += len(_DENSE.findall(text)) / 4
        words = _SIGNS.sub("", _DENSE.sub(" ", text)).split()
        least += sum(max(1.0, len(word) / 9) for word in words)
    return int(least * 0.75)
