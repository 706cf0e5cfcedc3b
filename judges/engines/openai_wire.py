"""Parsing the replies of an OpenAI-compatible endpoint. Pure.

Only a finished answer is text: one that was cut off by an error, a filter or the endpoint's own
context, or that is reasoning only, is a failure with a reason.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Mapping, Sequence
from typing import Any

from kdharness.harness.config.endpoints import proxy_of
from kdharness.harness.types import Finish, GenerationRequest, Reply
from kdharness.harness.util.redact import redact
from kdharness.harness.util.untrusted import parse_json
from kdharness.judges.engines.refusals import status_error
from kdharness.judges.engines.trouble import CallError, Trouble, Used, short
from kdharness.judges.engines.usage import refuse_cut_prompt, thought_tokens, usage
from kdharness.judges.engines.waits import asked_wait
from kdharness.judges.scoring.verdicts import is_unfinished

OF_PROXIES = (407, 502, 503, 504)
LONGEST_REPLY = 1_000_000
"""Characters; a longer reply is a failure, not a verdict."""
MOST_TOP = 1000

STOPPED = frozenset(
    {
        "stop",
        "stop_sequence",
        "stop_token",
        "end_turn",
        "end",
        "eos",
        "eos_token",
        "end_of_text",
        "end_of_turn",
        "complete",
        "completed",
        "finish",
        "finished",
        "finish_reason_stop",
        "done",
        "normal",
        "tool_calls",
        "tool_use",
        "function_call",
        "",
    }
)
"""Finish reasons of a model that ended by itself; an empty one means the same."""
CUT = frozenset(
    {
        "length",
        "max_tokens",
        "max_token",
        "max_length",
        "max_output_tokens",
        "max_new_tokens",
        "max_completion_tokens",
        "model_length",
        "token_limit",
        "context_length",
        "context_length_exceeded",
        "model_context_window_exceeded",
        "finish_reason_max_tokens",
    }
)
FILTERED = re.compile(
    r"filter|safety|refusal|recitation|prohibited|block|guardrail|sensitive|moderat|policy|spii"
)
BROKEN = re.compile(r"error|fail|abort|cancel|insufficient|overload|timeout|interrupt|unexpected")

_SAYS = ("detail", "error_msg", "error_code", "errors", "msg")
"""Fields in which a body reports an error without an `error` field."""
EMPTY_RETRIES = 2
"""How often an empty reply is asked for again."""


def read_body(raw: bytes, request: GenerationRequest, seconds: float) -> Reply:
    """Parse a chat completion into a reply.

    Raises:
        CallError: not JSON, no choices, no finished text, a truncated prompt, or no
            log-probabilities although they were requested. None of these is ever a verdict.
    """
    value = _parsed(raw)
    choices = value.get("choices")
    if not isinstance(choices, list) or not choices or not isinstance(choices[0], dict):
        raise _stated_error(value) or _no_choices(value)
    choice = choices[0]
    given = choice.get("message", choice.get("delta"))
    message: Mapping[str, object] = given if isinstance(given, dict) else {}
    text = redact(_text(message) or _legacy(choice))
    used = usage(value, request, text or _thought(message))
    try:
        return _finished(value, choice, message, text, used, request, seconds)
    except CallError as error:
        error.used = used
        raise


def _finished(
    value: Mapping[str, object],
    choice: Mapping[str, object],
    message: Mapping[str, object],
    text: str,
    used: Used,
    request: GenerationRequest,
    seconds: float,
) -> Reply:
    """Return the reply of a choice that is a finished answer."""
    if len(text) > LONGEST_REPLY:
        raise CallError(f"the reply is too long ({len(text):,} characters)", Trouble.GIVE_UP)
    broken = _stated_error(value) or _stated_error(choice)
    if broken is not None:
        raise broken
    finish = _finish(choice.get("finish_reason"))
    logprobs = _first_logprobs(choice) if request.top_logprobs else None
    if not text.strip() and not logprobs:
        raise _nothing(finish, message, value)
    if request.top_logprobs and not logprobs:
        raise CallError("the reply has no log-probabilities", Trouble.RETRY)
    refuse_cut_prompt(value, request.messages)
    return Reply(
        text=text,
        finish=finish,
        prompt_tokens=used.prompt,
        tokens=used.written,
        seconds=seconds,
        top_logprobs=logprobs,
        info={"estimated": True} if used.estimated else {},
    )


def refusal(status: int, text: str, headers: Mapping[str, str], base: str) -> CallError:
    """Return the error of an HTTP status; a proxy is named if the status may be its own."""
    error = status_error(status, redact(text, shapes=True), asked_wait(headers, text))
    proxy = proxy_of(base) if status in OF_PROXIES else None
    if proxy is not None:
        error.message += f" (through the proxy {proxy[1]}, {proxy[0]})"
    return error


def failed_reply(error: CallError) -> Reply:
    """Return a failed call as a reply, with the tokens it used."""
    used = error.used or Used()
    return Reply(
        error=error.message,
        finish=Finish.ERROR,
        prompt_tokens=used.prompt,
        tokens=used.written,
    )


def _parsed(raw: bytes) -> dict[str, Any]:
    """Parse a body as an object; merge an event stream, which some servers send unrequested."""
    start = raw[:64].lstrip()
    if start.startswith((b"data:", b"event:", b": ")):
        return _from_events(raw.decode("utf-8", "replace"))
    try:
        value = parse_json(raw)
    except ValueError as error:
        words = short(raw.decode("utf-8", "replace"), 120)
        raise CallError(f"the reply is not JSON: {words}", Trouble.RETRY) from error
    if not isinstance(value, dict):
        raise CallError("the reply is not a JSON object", Trouble.RETRY)
    return value


def _from_events(text: str) -> dict[str, object]:
    """Merge the events of a stream into one completion; an interrupted one is an error."""
    parts: dict[str, list[str]] = {"content": [], "reasoning_content": []}
    whole: dict[str, object] = {}
    finish: Any = None
    first: Any = None
    for line in text.replace("\r", "").split("\n"):
        data = line.removeprefix("data:").strip()
        if not line.startswith("data:") or data == "[DONE]":
            continue
        try:
            event = parse_json(data)
        except ValueError as error:
            raise CallError("the event stream was interrupted", Trouble.RETRY) from error
        if not isinstance(event, dict):
            continue
        whole |= {key: event[key] for key in ("usage", "error") if event.get(key)}
        choices = event.get("choices")
        choice = choices[0] if isinstance(choices, list) and choices else {}
        if not isinstance(choice, dict):
            continue
        delta = choice.get("delta", choice.get("message"))
        delta = delta if isinstance(delta, dict) else {}
        parts["content"].append(_text(delta) or _legacy(choice))
        parts["reasoning_content"].append(_thought(delta))
        finish = choice.get("finish_reason") or finish
        first = first or choice.get("logprobs")
    if finish is None and "error" not in whole:
        raise CallError("the event stream ended without a finish reason", Trouble.RETRY)
    message = {name: "".join(pieces) for name, pieces in parts.items()}
    return {**whole, "choices": [{"message": message, "finish_reason": finish, "logprobs": first}]}


def _stated_error(value: Mapping[str, object]) -> CallError | None:
    """Return the error inside a body that came with HTTP 200."""
    error = value.get("error")
    return _error_of(error, {"error": error}) if error else None


def _error_of(error: object, body: Mapping[str, object]) -> CallError:
    """Return the meaning of an error in a body, by its status or its wording."""
    text = json.dumps(body)
    names = (
        (error.get(name) for name in ("code", "status", "error_code"))
        if isinstance(error, dict)
        else ()
    )
    status = next((int(n) for n in names if isinstance(n, (int, str)) and str(n).isdigit()), 0)
    named = 400 <= status < 600
    result = status_error(status if named else 400, text, asked_wait({}, text))
    # Without a status, an error is retried unless its wording is unambiguous.
    if not named and result.trouble is Trouble.REFUSED:
        result = CallError("", Trouble.RETRY, result.wait, hint=result.hint)
    shown = f"HTTP {status}: " if named else ""
    result.message = f"HTTP 200 with an error: {shown}{short(text)}"
    return result


def _no_choices(value: Mapping[str, object]) -> CallError:
    """Return the error of a body without choices: a custom error, or another API's reply."""
    if isinstance(value.get("message"), str) or any(value.get(name) for name in _SAYS):
        return _error_of(value, value)
    other = next(
        (
            name
            for name in ("message", "content", "output", "response", "candidates")
            if value.get(name)
        ),
        "",
    )
    if other:
        return CallError(
            f"the reply is from a different API: it has {other}, but no choices",
            Trouble.REFUSED,
            hint="use the URL of the server's OpenAI-compatible API (often ending in /v1)",
        )
    return CallError("the reply has no choices", Trouble.RETRY)


def _finish(reason: object) -> Finish:
    """Return why the text ended; raise CallError unless it stopped by itself or at its limit."""
    named = reason.strip().lower() if isinstance(reason, str) else ""
    if named in STOPPED:
        return Finish.STOP
    if named in CUT:
        return Finish.LENGTH
    shown = f"finish_reason {named[:60]!r}"
    if FILTERED.search(named):
        raise CallError(f"stopped by the endpoint's content filter ({shown})", Trouble.GIVE_UP)
    if BROKEN.search(named):
        raise CallError(f"the endpoint aborted the reply ({shown})", Trouble.RETRY)
    raise CallError(f"the reply did not finish normally ({shown})", Trouble.REFUSED)


def _nothing(
    finish: Finish, message: Mapping[str, object], value: Mapping[str, object]
) -> CallError:
    """Return why a reply has no answer."""
    if tool := _tool_called(message):
        return CallError(f"the reply is a call of a tool ({tool}), not a text", Trouble.GIVE_UP)
    thought = bool(_thought(message).strip()) or thought_tokens(value) > 0
    shown = f"finish_reason {finish.value}"
    if thought:
        hint = "; raise max tokens" if finish is Finish.LENGTH else ""
        return CallError(
            f"the reply has only reasoning, no answer ({shown}){hint}",
            Trouble.GIVE_UP,
            thinks=finish is Finish.LENGTH,
        )
    if finish is Finish.LENGTH:
        return CallError(
            "cut off before the reply started (still reasoning?); raise max tokens",
            Trouble.GIVE_UP,
            thinks=True,
        )
    # It is billed, and at temperature 0 the next one is hardly ever another.
    return CallError("the reply is empty", Trouble.RETRY, most=EMPTY_RETRIES)


def _tool_called(message: Mapping[str, object]) -> str:
    """Return the name of the tool that a message calls; empty if it calls none."""
    calls = message.get("tool_calls")
    first = calls[0] if isinstance(calls, list) and calls else message.get("function_call")
    if not isinstance(first, dict):
        return ""
    function = first.get("function", first)
    name = function.get("name") if isinstance(function, dict) else None
    return name[:60] if isinstance(name, str) and name else "unnamed"


def refuse_cut_thought(reply: Reply) -> None:
    """Refuse a reply that ends inside its reasoning, to be requested again with a higher limit.

    Raises:
        CallError: it does.
    """
    if reply.finish is Finish.LENGTH and is_unfinished(reply.text):
        used = Used(reply.prompt_tokens, reply.tokens, "estimated" in reply.info)
        raise CallError(
            "cut off while reasoning; raise max tokens", Trouble.GIVE_UP, thinks=True, used=used
        )


# ---------------------------------------------------------------- text


def _text(message: Mapping[str, object]) -> str:
    """Return the content, a string or a list of parts; refusals count, reasoning does not."""
    content = message.get("content")
    if isinstance(content, (list, str)) and content:
        return content if isinstance(content, str) else _parts(content, thoughts=False)
    refusal = message.get("refusal")
    return refusal if isinstance(refusal, str) else ""


def _parts(content: Sequence[object], *, thoughts: bool) -> str:
    """Return the text of the parts that are reasoning, or of those that are not."""
    texts = []
    for part in content:
        if isinstance(part, str):
            part = {"text": part}
        if not isinstance(part, dict):
            continue
        kind = str(part.get("type") or "text").lower()
        if any(word in kind for word in ("think", "reason", "thought")) is not thoughts:
            continue
        text = part.get("text", part.get("content", part.get("thinking", part.get("refusal"))))
        if isinstance(text, list):
            text = "".join(str(item.get("text", "")) for item in text if isinstance(item, dict))
        texts.append(text if isinstance(text, str) else "")
    return "".join(texts)


def _legacy(choice: Mapping[str, object]) -> str:
    """Return the text of a legacy completion, which some endpoints send for a chat."""
    text = choice.get("text")
    return text if isinstance(text, str) else ""


def _thought(message: Mapping[str, object]) -> str:
    """Return the text of the reasoning fields."""
    for name in ("reasoning_content", "reasoning", "thinking", "reasoning_text", "thought"):
        text = message.get(name)
        if isinstance(text, str) and text:
            return text
    for name in ("reasoning_details", "thinking_blocks", "reasoning"):
        blocks = message.get(name)
        if isinstance(blocks, list) and (text := _parts(blocks, thoughts=True)):
            return text
    content = message.get("content")
    return _parts(content, thoughts=True) if isinstance(content, list) else ""


def _first_logprobs(choice: Mapping[str, Any]) -> tuple[tuple[str, float], ...] | None:
    """Return the first token's alternatives, without those that have no finite value."""
    try:
        entries = choice["logprobs"]["content"][0]["top_logprobs"][:MOST_TOP]
        pairs = [(str(entry["token"]), float(entry["logprob"])) for entry in entries]
    except (KeyError, IndexError, TypeError, ValueError, OverflowError):
        return None
    return tuple((token, value) for token, value in pairs if math.isfinite(value)) or None


# ---------------------------------------------------------------- usage
