"""Token usage of replies, and detection of truncated prompts. Pure."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from kdharness.harness.types import GenerationRequest, Message
from kdharness.judges.engines.token_estimates import (
    _DENSE,
    _RUNS,
    LEAST_COUNT,
    LEAST_SURE,
    MOST_CHARACTERS,
    estimated_tokens,
    least_tokens,
    prompt_estimate,
)
from kdharness.judges.engines.trouble import CallError, Trouble, Used

MOST_TOKENS = 1 << 40


def refuse_cut_prompt(value: Mapping[str, object], messages: Sequence[Message]) -> None:
    """Refuse a reply to a prompt that the server silently truncated to its context.

    Raises:
        CallError: the reported prompt tokens are too few for the prompt.
    """
    usage = mapping(value.get("usage"))
    seen = count(usage.get("prompt_tokens")) or count(usage.get("input_tokens"))
    seen += count(usage.get("cache_read_input_tokens"))
    seen += count(usage.get("cache_creation_input_tokens"))
    if sum(len(m["content"]) for m in messages) < LEAST_SURE or seen < LEAST_COUNT:
        return
    least = least_tokens(messages)
    about = sum(estimated_tokens(message["content"]) for message in messages)
    if (least >= LEAST_SURE and seen < least) or is_a_full_context(seen, messages):
        raise CallError(
            f"the server read only {seen:,} of about {about:,} prompt tokens: raise its context "
            "length (Ollama: num_ctx)",
            Trouble.REFUSED,
            hint="the prompts are longer than the context length the server was started with",
        )


def is_a_full_context(seen: int, messages: Sequence[Message]) -> bool:
    """Return whether a count equals a full context, and is too small for the prompt.

    Contexts are powers of two; Ollama keeps half of it plus two tokens. No language averages that
    many characters per token; together with such a count it is not a coincidence.
    """
    if not any((seen - more) & (seen - more - 1) == 0 for more in range(4) if seen - more >= 1024):
        return False
    plain = [_RUNS.sub(r"\1", " ".join(message["content"].split())) for message in messages]
    # A Chinese, Japanese or Korean character counts as two letters.
    size = sum(len(text) + len(_DENSE.findall(text)) for text in plain)
    return size > MOST_CHARACTERS * seen


def usage(value: Mapping[str, object], request: GenerationRequest, text: str) -> Used:
    """Return a call's input and output tokens; estimated if the endpoint does not report them."""
    usage = mapping(value.get("usage"))
    read, wrote = _read(usage), _written(usage)
    if read and (wrote or not text):
        return Used(read, wrote)
    guessed = max(1, estimated_tokens(text)) if text else 0
    return Used(read or prompt_estimate(request), wrote or guessed, estimated=True)


def _read(usage: Mapping[str, Any]) -> int:
    """Return the input tokens; Anthropic counts those in its cache beside the others."""
    return count(usage.get("prompt_tokens")) or count(usage.get("input_tokens")) + _cached(usage)


def _cached(usage: Mapping[str, Any]) -> int:
    names = ("cache_read_input_tokens", "cache_creation_input_tokens")
    return sum(count(usage.get(name)) for name in names)


def _written(usage: Mapping[str, Any]) -> int:
    """Return the output tokens with those of hidden reasoning, which are billed as well.

    Gemini and xAI count reasoning in the total alone. A total that is smaller than its parts, or
    that only adds the cache, says nothing of it.
    """
    wrote = count(usage.get("completion_tokens")) or count(usage.get("output_tokens"))
    prompt = count(usage.get("prompt_tokens")) or count(usage.get("input_tokens"))
    beyond = count(usage.get("total_tokens")) - prompt - wrote
    hidden = beyond if prompt and beyond > 0 and beyond != _cached(usage) else 0
    reasoned = _reasoning(usage)
    # Fewer written than thought: the thoughts were not counted.
    return wrote + (hidden or (reasoned if reasoned > wrote else 0))


def _reasoning(usage: Mapping[str, Any]) -> int:
    """Return the reported reasoning tokens."""
    names = ("completion_tokens_details", "output_tokens_details")
    details = (mapping(usage.get(name)) for name in names)
    return max(count(part.get("reasoning_tokens")) for part in details)


def thought_tokens(value: Mapping[str, object]) -> int:
    """Return the reasoning tokens: as reported, or the total beyond input and output."""
    usage = mapping(value.get("usage"))
    read, wrote = count(usage.get("prompt_tokens")), count(usage.get("completion_tokens"))
    hidden = count(usage.get("total_tokens")) - read - wrote if read else 0
    return _reasoning(usage) or max(0, hidden)


def mapping(value: object) -> Mapping[str, Any]:
    """Return the value if it is an object, else an empty one."""
    return value if isinstance(value, dict) else {}


def count(value: Any) -> int:
    """Return a token count; 0 for an invalid one."""
    if isinstance(value, float) and value.is_integer():
        value = int(value)
    valid = isinstance(value, int) and not isinstance(value, bool) and 0 <= value <= MOST_TOKENS
    return value if valid else 0
