"""What goes over the wire to an OpenAI-compatible endpoint, and what its answers mean. Pure."""

from __future__ import annotations

import json
import math
import re
from collections.abc import Mapping
from dataclasses import dataclass
from enum import Enum
from typing import Any

from kdharness.harness.reading import parse_json
from kdharness.harness.secrets import redact
from kdharness.harness.types import Finish, GenerationRequest, Reply

GREEDY = 1e-4
LONGEST_REPLY = 1_000_000
"""Characters; a judge that says more than that has said no verdict."""
LONGEST_ERROR = 20_000
MOST_TOKENS = 1 << 40
MOST_TOP = 1000


class Trouble(Enum):
    """What to do about a call that did not work."""

    RETRY = "retry"
    GIVE_UP = "give up"
    FATAL = "fatal"


class CallError(Exception):
    """A call that did not work, and what is to be done."""

    def __init__(self, message: str, trouble: Trouble, wait: float | None = None) -> None:
        super().__init__(message)
        self.message = message
        self.trouble = trouble
        self.wait = wait


@dataclass
class Dialect:
    """What one endpoint takes; learnt from its refusals."""

    completion_tokens: bool = False
    temperature: bool = True
    seed: bool = True
    system: bool = True


def body(model: str, request: GenerationRequest, dialect: Dialect) -> dict[str, Any]:
    """The JSON body of one call."""
    messages: list[dict[str, str]] = [dict(message) for message in request.messages]
    if not dialect.system:
        messages = _without_system(messages)
    limit = "max_completion_tokens" if dialect.completion_tokens else "max_tokens"
    fields: dict[str, Any] = {
        "model": model, "messages": messages, limit: request.max_new_tokens,
    }  # fmt: skip
    sampled = request.temperature >= GREEDY
    if dialect.temperature:
        fields["temperature"] = request.temperature if sampled else 0
    if sampled and dialect.seed and request.seed:
        fields["seed"] = request.seed % (1 << 31)
    if request.top_logprobs:
        fields["logprobs"] = True
        fields["top_logprobs"] = request.top_logprobs
    return fields


def _without_system(messages: list[dict[str, str]]) -> list[dict[str, str]]:
    """System text in front of the first user turn, for templates that know no system role."""
    system = "\n\n".join(m["content"] for m in messages if m["role"] == "system")
    rest = [dict(m) for m in messages if m["role"] != "system"]
    if system and rest:
        rest[0]["content"] = f"{system}\n\n{rest[0]['content']}"
    return rest


def adapt(dialect: Dialect, message: str, sent: Mapping[str, Any]) -> bool:
    """Learn from a refusal (HTTP 400); True when the call is worth sending again.

    Log-probabilities are never dropped here: a silent change of what is read would mix figures.
    """
    text = message.lower()
    # An endpoint names what it refuses in many ways; all name the parameter.
    if "max_completion_tokens" in text and "max_tokens" in sent and not dialect.completion_tokens:
        dialect.completion_tokens = True
        return True
    if "max_completion_tokens" in text and dialect.completion_tokens:
        return False
    if "temperature" in text and "temperature" in sent and dialect.temperature:
        dialect.temperature = False
        return True
    if re.search(r"\bseed\b", text) and "seed" in sent and dialect.seed:
        dialect.seed = False
        return True
    if "system" in text and "role" in text and dialect.system:
        dialect.system = False
        return True
    return False


def status_error(status: int, text: str, wait: float | None) -> CallError:
    """What an HTTP error status means for the call and for the run."""
    message = f"HTTP {status}: {short(text)}"
    lowered = text.lower()
    if 300 <= status < 400:
        return CallError(f"HTTP {status}: the endpoint has moved", Trouble.FATAL)
    if status == 429 and ("insufficient_quota" in lowered or "billing" in lowered):
        return CallError(message, Trouble.FATAL)
    if status in (401, 403, 402):
        return CallError(message, Trouble.FATAL)
    if status == 404:
        return CallError(message, Trouble.FATAL)
    if status in (408, 409, 425, 429) or status >= 500:
        return CallError(message, Trouble.RETRY, wait)
    return CallError(message, Trouble.GIVE_UP)


def short(text: str, limit: int = 300) -> str:
    """An error's own words, found in JSON or HTML, without line breaks."""
    found = text = text[:LONGEST_ERROR]
    try:
        value = parse_json(text)
        inner = value.get("error", value) if isinstance(value, dict) else value
        if isinstance(inner, dict):
            inner = inner.get("message", inner)
        found = inner if isinstance(inner, str) else json.dumps(inner)
    except ValueError:
        found = re.sub(r"<[^<>]+>", " ", text)
    found = " ".join(found.split())
    return found if len(found) <= limit else found[:limit] + "…"


def read_body(raw: bytes, request: GenerationRequest, seconds: float) -> Reply:
    """A chat completion as a reply.

    Raises:
        CallError: not JSON, no choices, no text, or no log-probabilities where they were asked
            for. None of these is ever a verdict.
    """
    try:
        value = parse_json(raw)
    except ValueError as error:
        words = short(raw.decode("utf-8", "replace"), 120)
        raise CallError(f"the reply is not JSON: {words}", Trouble.RETRY) from error
    if not isinstance(value, dict):
        raise CallError("the reply is no JSON object", Trouble.RETRY)
    choices = value.get("choices")
    if not isinstance(choices, list) or not choices or not isinstance(choices[0], dict):
        said = f": {short(json.dumps(value['error']))}" if value.get("error") else ""
        raise CallError(f"the reply has no choices{said}", Trouble.RETRY)
    choice = choices[0]
    message = choice.get("message")
    text = redact(_text(message if isinstance(message, dict) else {}))
    if len(text) > LONGEST_REPLY:
        raise CallError(f"a reply of {len(text):,} characters", Trouble.GIVE_UP)
    reason = choice.get("finish_reason")
    if reason == "content_filter":
        raise CallError("stopped by the endpoint's content filter", Trouble.GIVE_UP)
    logprobs = _first_logprobs(choice) if request.top_logprobs else None
    if request.top_logprobs and not logprobs:
        raise CallError("the reply has no log-probabilities", Trouble.RETRY)
    if not text.strip() and not logprobs:
        if reason == "length":
            raise CallError("cut off before the reply began (still thinking?)", Trouble.GIVE_UP)
        raise CallError("the reply is empty", Trouble.RETRY)
    usage = value.get("usage")
    usage = usage if isinstance(usage, dict) else {}
    return Reply(
        text=text, finish=Finish.LENGTH if reason == "length" else Finish.STOP,
        prompt_tokens=_count(usage.get("prompt_tokens")),
        tokens=_count(usage.get("completion_tokens")), seconds=seconds, top_logprobs=logprobs,
    )  # fmt: skip


def _count(value: Any) -> int:
    sound = isinstance(value, int) and not isinstance(value, bool) and 0 <= value <= MOST_TOKENS
    return value if sound else 0


def _text(message: Mapping[str, Any]) -> str:
    """The content, whether text or a list of parts; a refusal is text too."""
    content = message.get("content")
    if isinstance(content, list):
        parts = [part.get("text", "") for part in content if isinstance(part, dict)]
        return "".join(part for part in parts if isinstance(part, str))
    if isinstance(content, str):
        return content
    refusal = message.get("refusal")
    return refusal if isinstance(refusal, str) else ""


def _first_logprobs(choice: Mapping[str, Any]) -> tuple[tuple[str, float], ...] | None:
    """The first token's alternatives; one whose number is none has no weight."""
    try:
        entries = choice["logprobs"]["content"][0]["top_logprobs"][:MOST_TOP]
        pairs = [(str(entry["token"]), float(entry["logprob"])) for entry in entries]
    except (KeyError, IndexError, TypeError, ValueError, OverflowError):
        return None
    return tuple((token, value) for token, value in pairs if math.isfinite(value)) or None
