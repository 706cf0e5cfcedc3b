"""Replies that were begun for a judge: what all engines share, and how an endpoint is read."""

from __future__ import annotations

import math
from collections.abc import Awaitable, Callable, Iterable
from dataclasses import replace

from kdharness.harness.types import Finish, GenerationRequest, Reply
from kdharness.judges.scoring.expected import LIKELIEST, NUMBERS, START, Branch, NumberReading

NEGLIGIBLE = 1e-4
"""Beginnings of numbers that are less likely are not followed where each takes its own pass."""
RARE = 0.02
"""The same where it takes a paid call."""
MOST_CALLS = 1 + len(NUMBERS)
"""Calls of an endpoint for one rating at the most: the first, and one per number that begins."""
OPENED_END = 14
"""Tokens at the end of a prompt and an opening that may open the judge's reasoning."""
IN_REASONING = "the chat template opens the judge's reasoning, inside which no rating can stand"
LONGEST = 2
"""Tokens of the longest beginning of a number: "1" and "0"."""


async def read_endpoint(
    ask: Callable[[GenerationRequest], Awaitable[Reply | None]], request: GenerationRequest
) -> Reply | None:
    """Return the numbers after the opening of a request, from an endpoint's likeliest tokens.

    Every beginning of a number that is likely enough takes one more call. A reply with an error,
    or None, is returned as it is.
    """
    reading, branches = NumberReading(), [START]
    asked: dict[str, Reply] = {}
    while branches:
        branch = branches.pop()
        reply = asked.get(branch.digits)
        if reply is None:
            reply = await ask(replace(request, opening=request.opening + branch.digits))
            if reply is None or reply.error:
                return reply
            asked[branch.digits] = reply
        tokens = [(0, text, math.exp(min(0.0, v))) for text, v in reply.top_logprobs or ()]
        branches += likely(reading.follow(branch, tokens), reading, RARE)
    found, first = list(asked.values()), asked[START.digits]
    text, value = max(first.top_logprobs or (("", 0.0),), key=lambda pair: pair[1])
    return replace(
        first,
        text="",
        finish=Finish.STOP,
        prompt_tokens=sum(reply.prompt_tokens for reply in found),
        tokens=sum(reply.tokens for reply in found),
        seconds=sum(reply.seconds for reply in found),
        top_logprobs=reading.logprobs,
        info={**first.info, **instead(text, math.exp(min(0.0, value)))},
    )


def likely(
    branches: Iterable[Branch], reading: NumberReading, least: float = NEGLIGIBLE
) -> list[Branch]:
    """Return the branches worth following; the others count as they are."""
    kept = []
    for branch in branches:
        if branch.share >= least:
            kept.append(branch)
        else:
            reading.add(branch.digits, branch.share)
    return kept


def instead(text: str, share: float) -> dict[str, object]:
    """Return the entry of `Reply.info` for the likeliest first token."""
    return {LIKELIEST: [text, round(share, 6)]}
