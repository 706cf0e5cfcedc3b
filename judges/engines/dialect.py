"""The parameters an endpoint accepts, learned from its errors. Pure."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from kdharness.harness.types import GenerationRequest
from kdharness.harness.util.untrusted import parse_json
from kdharness.judges.engines.trouble import CONTENT

GREEDY = 1e-4
"""The temperature below which nothing is sampled."""
COLDEST = 0.01
"""The temperature sent instead of 0 if an endpoint rejects 0."""

_CONTINUES = re.compile(r"continue_final_message|add_generation_prompt")
_LOGPROBS = re.compile(r"log[ _-]?prob(?:s|abilit)|logprob", re.IGNORECASE)
_ABOVE_ZERO = re.compile(
    r"strictly positive|must be positive|positive (?:float|number)|greater than\D{0,4}0|above 0"
    r"|larger than\D{0,12}0|> ?0(?![.\d]*[1-9])|\(0(?:\.0+)? ?,|non-?zero|not be (?:0|zero)"
    r"|cannot be (?:0|zero)|at least 0?\.0*1\b|>= ?0?\.0*1\b",
    re.IGNORECASE,
)
_LEAST_TOKENS = re.compile(
    r"(?:>=|at least|minimum(?: value)?(?: of| is)?|below)\D{0,20}(\d{1,4})\b"
)
_ROLES = re.compile(
    r"system.{0,60}role|role.{0,60}system|roles must alternate|system message"
    r"|(?:developer|system) (?:instruction|prompt)s?\b.{0,30}not (?:enabled|supported|allowed)"
)


# What an error says of a parameter that it refuses.
_REFUSES = re.compile(
    r"unsupported|not (?:be |currently )?(?:supported|allowed|permitted|accepted|available|used"
    r"|set|recogni[sz]ed|enabled|implemented|valid)"
    r"|\b(?:does|do)(?: not|n['’]t) (?:support|accept|allow)"
    r"|\bonly\b|\bmust\b|should be|has to be|deprecated|removed|invalid|unknown|unrecogni[sz]ed"
    r"|unexpected|extra (?:inputs|fields|parameter)|cannot|can['’]t|greater than|less than|between"
    r"|out of range|rejected|refus|forbidden|no longer|strictly|positive|\bfixed\b|illegal"
    r"|not in\b|\brange\b|\bneeds?\b|\blimit|[<>≤≥]|非法|不支持|范围",
)
_QUOTE = re.compile(r"\"([^\"]{1,2000})\"|'([^']{1,2000})'|“([^”]{1,2000})”|`([^`]{1,2000})`")
_OWN_BODY = re.compile(
    r"['\"](?:input|body|request|messages)['\"]\s{0,3}:\s{0,3}[\[{].*", re.DOTALL
)
_SHORT_NAME = 40


@dataclass
class Dialect:
    """The parameters an endpoint accepts, learned from its errors.

    Attributes:
        completion_tokens: whether the limit is called `max_completion_tokens`.
        temperature, seed, system: whether these are accepted.
        coldest: the value sent for a temperature of 0.
        least_tokens: the smallest limit that is accepted.
        thinks: whether the model reasons before it answers, within its token limit.
        continues: whether it is told, by vLLM's fields, to continue the last assistant message;
            other servers do so by themselves, or not at all.
        room: whether a limit raised by `thinking_room` is accepted.
        extra: further fields of every call.
    """

    completion_tokens: bool = False
    temperature: bool = True
    seed: bool = True
    system: bool = True
    coldest: float = 0.0
    least_tokens: int = 1
    thinks: bool = False
    room: bool = True
    continues: bool = True
    extra: Mapping[str, object] = field(default_factory=dict)


def token_limit(request: GenerationRequest, dialect: Dialect) -> int:
    """Return the token limit to send, with room for reasoning if needed."""
    room = request.thinking_room if dialect.thinks and dialect.room else 0
    return max(request.max_new_tokens + room, dialect.least_tokens)


def body(model: str, request: GenerationRequest, dialect: Dialect) -> dict[str, Any]:
    """Return the JSON body of one call."""
    messages: list[dict[str, str]] = [dict(message) for message in request.messages]
    if not dialect.system:
        messages = _without_system(messages)
    limit = "max_completion_tokens" if dialect.completion_tokens else "max_tokens"
    fields: dict[str, object] = {
        "model": model,
        "messages": messages,
        limit: token_limit(request, dialect),
        **dialect.extra,
    }
    sampled = request.temperature >= GREEDY
    if dialect.temperature:
        fields["temperature"] = (
            max(request.temperature, dialect.coldest) if sampled else dialect.coldest or 0
        )
    if sampled and dialect.seed and request.seed:
        fields["seed"] = request.seed % (1 << 31)
    if request.opening:
        messages.append({"role": "assistant", "content": request.opening})
        if dialect.continues:
            fields |= {"add_generation_prompt": False, "continue_final_message": True}
    if request.top_logprobs:
        fields["logprobs"] = True
        fields["top_logprobs"] = request.top_logprobs
    return fields


def left_out(request: GenerationRequest, dialect: Dialect) -> dict[str, Any]:
    """Return the settings of a request that were not sent as requested."""
    sampled = request.temperature >= GREEDY
    without = [] if dialect.temperature else ["temperature"]
    if sampled and request.seed and not dialect.seed:
        without.append("seed")
    if not dialect.system and any(m["role"] == "system" for m in request.messages):
        without.append("system role")
    info: dict[str, object] = {"without": without} if without else {}
    if dialect.temperature and request.temperature < dialect.coldest:
        info["temperature"] = dialect.coldest
    if token_limit(request, dialect) > request.max_new_tokens:
        info["max_tokens"] = token_limit(request, dialect)
    return info


def _without_system(messages: list[dict[str, str]]) -> list[dict[str, str]]:
    """Move system text to the first user turn, for templates without a system role."""
    system = "\n\n".join(m["content"] for m in messages if m["role"] == "system")
    rest = [dict(m) for m in messages if m["role"] != "system"]
    if system and rest:
        rest[0]["content"] = f"{system}\n\n{rest[0]['content']}"
    return rest


def speaks_of_logprobs(text: str) -> bool:
    """Return whether an error is about log-probabilities."""
    return _LOGPROBS.search(_words(text)) is not None


def adapt(dialect: Dialect, message: str, sent: Mapping[str, Any]) -> bool:
    """Learn from an error (HTTP 400, 422); return whether to send the call again.

    Log-probabilities are never dropped here: that would silently mix two kinds of scores.
    """
    named = _named(message)
    # A refused text may speak of anything, and so may what is quoted of the request.
    text = _without_own(_words(message), sent).lower()
    text = "" if CONTENT.search(text) else text
    # Endpoints word this error in many ways; all of them name the parameter.
    if "max_completion_tokens" in text and "max_tokens" in sent and not dialect.completion_tokens:
        dialect.completion_tokens = True
        return True
    if _refused("temperature", text, named) and "temperature" in sent and dialect.temperature:
        warmer = dialect.coldest == 0 and sent["temperature"] == 0 and _ABOVE_ZERO.search(text)
        dialect.coldest = COLDEST if warmer else dialect.coldest
        dialect.temperature = bool(warmer)
        return True
    if _CONTINUES.search(text) and "continue_final_message" in sent and dialect.continues:
        dialect.continues = False
        return True
    if _refused("seed", text, named) and "seed" in sent and dialect.seed:
        dialect.seed = False
        return True
    has_system = any(m.get("role") == "system" for m in sent.get("messages", ()))
    if _ROLES.search(text) and has_system and dialect.system:
        dialect.system = False
        return True
    limit = sent.get("max_completion_tokens", sent.get("max_tokens", 0))
    about_limit = re.search(r"max\w{0,12}_tokens|max tokens|context", text) is not None
    return about_limit and _other_limit(dialect, text, limit)


def _refused(name: str, text: str, named: frozenset[str]) -> bool:
    """Return whether an error refuses a parameter: it names it as such, or in a sentence."""
    if name in named:
        return True
    return any(
        re.search(rf"(?<![a-z]){name}\b", part) and _REFUSES.search(part)
        for part in re.split(r"[.!?;]\s|\n", text)
    )


def _named(message: str) -> frozenset[str]:
    """Return the parameters that an error names in a field of its own: `param`, `loc`."""
    try:
        value = parse_json(message)
    except ValueError:
        return frozenset()
    return frozenset(word.lower() for word in _fields(value, 0) if len(word) <= _SHORT_NAME)


def _fields(value: object, depth: int) -> list[str]:
    if depth > 8:
        return []
    if isinstance(value, Mapping):
        own = [part for key, part in value.items() if key in ("param", "loc")]
        found = [word for part in own for word in _texts(part, depth)]
        return found + [word for part in value.values() for word in _fields(part, depth + 1)]
    parts = list(value) if isinstance(value, (list, tuple)) else []
    return [word for part in parts for word in _fields(part, depth + 1)]


def _without_own(text: str, sent: Mapping[str, Any]) -> str:
    """Return an error's text without what it quotes of the request's messages."""
    text = _OWN_BODY.sub(" ", text)
    contents = [str(message.get("content", "")) for message in sent.get("messages", ())]
    for content in contents:
        if len(content) > 3:
            text = text.replace(content, " ")
    folded = " ".join(" ".join(contents).lower().split())

    def kept(match: re.Match[str]) -> str:
        quoted = " ".join(next(part for part in match.groups() if part is not None).split())
        inside = quoted.lower().rstrip(".… ")
        # A name of one word may be a parameter, and in the request as well.
        return " " if " " in inside and inside in folded else match[0]

    return _QUOTE.sub(kept, text)


def refuses_a_role(message: str) -> bool:
    """Return whether an error comes from a chat template, which some servers send as HTTP 500."""
    return _ROLES.search(_words(message).lower()) is not None


def _other_limit(dialect: Dialect, text: str, limit: int) -> bool:
    """Return whether to try another token limit: a larger minimum, or one without extra room."""
    least = _LEAST_TOKENS.search(text)
    if least and limit < int(least[1]):
        dialect.least_tokens = int(least[1])
        return True
    if dialect.thinks and dialect.room:
        dialect.room = False
        return True
    return False


def _words(text: str) -> str:
    """Return an error's text without its quotes of the request (`input` has our own texts)."""
    try:
        value = parse_json(text)
    except ValueError:
        return text[:4000]
    return " ".join(_texts(value, 0))[:4000]


def _texts(value: object, depth: int) -> list[str]:
    if isinstance(value, str):
        return [value]
    if depth > 8:
        return []
    if isinstance(value, Mapping):
        parts = [part for key, part in value.items() if key not in ("input", "body", "request")]
    else:
        parts = list(value) if isinstance(value, (list, tuple)) else []
    return [word for part in parts for word in _texts(part, depth + 1)]
