"""Token counts of texts, estimated from their characters. Pure."""

from __future__ import annotations

import re
from collections.abc import Sequence

from kdharness.harness.types import GenerationRequest, Message

LEAST_SURE = 1_000
"""Minimum number of tokens a prompt certainly has before its reported count is checked."""


LEAST_COUNT = 256
"""A smaller count does not indicate a truncated prompt: no context is that short."""


MOST_CHARACTERS = 6
"""Per token of a long text; ordinary texts have three to five."""


TYPICAL_REPLY = 256
USUAL_CALLS = 3
"""Calls of an endpoint for one expected rating."""


_RUNS = re.compile(r"([^\w\s])\1+")


_SIGNS = re.compile(r"[^\w\s]+")


_DENSE = re.compile(r"[\u3040-\u30ff\u3400-\u9fff\uac00-\ud7af\uf900-\ufaff]")


def estimated_tokens(text: str) -> int:
    """Return an estimate of a text's tokens: a quarter of its bytes."""
    return len(text.encode("utf-8", "replace")) // 4


def prompt_estimate(request: GenerationRequest) -> int:
    """Return an estimate of a prompt's tokens."""
    return sum(estimated_tokens(message["content"]) for message in request.messages) + 8


def free_estimate(requests: Sequence[GenerationRequest]) -> tuple[int, float]:
    """Return the tokens of requests that cost nothing, at most, and a cost of 0."""
    return sum(prompt_estimate(r) + r.max_new_tokens for r in requests), 0.0


def least_tokens(messages: Sequence[Message]) -> int:
    """Return a lower bound on the number of tokens of these texts, for any tokenizer.

    A word has at least one token, and a long one a token per nine characters; whitespace and
    punctuation may be merged into any token, and count as nothing. Scripts without spaces have at
    most four characters per token. A quarter is subtracted: some tokenizers join words.
    """
    least = 0.0
    for message in messages:
        text = message["content"]
        least += len(_DENSE.findall(text)) / 4
        words = _SIGNS.sub("", _DENSE.sub(" ", text)).split()
        least += sum(max(1.0, len(word) / 9) for word in words)
    return int(least * 0.75)


def endpoint_estimate(requests: Sequence[GenerationRequest]) -> tuple[int, int]:
    """Return a rough number of prompt tokens and of reply tokens, over all calls."""
    calls = [USUAL_CALLS if request.opening else 1 for request in requests]
    read = sum(prompt_estimate(r) * n for r, n in zip(requests, calls, strict=True))
    written = [
        min(r.max_new_tokens, TYPICAL_REPLY) * n for r, n in zip(requests, calls, strict=True)
    ]
    return read, sum(written)
