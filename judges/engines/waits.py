"""How long an endpoint asks to wait: in a header, an error field, or the error's text. Pure."""

from __future__ import annotations

import datetime
import email.utils
import re
import time
from collections.abc import Mapping
from typing import Any

from kdharness.harness.util.untrusted import parse_json

_UNITS = {"ms": 0.001, "s": 1.0, "m": 60.0, "h": 3600.0, "d": 86400.0}
_PART = re.compile(
    r"(\d{1,9}(?:\.\d{1,12})?)\s{0,3}"
    r"(ms|milliseconds?|s(?:ec(?:ond)?s?)?|m(?:in(?:ute)?s?)?|h(?:(?:ou)?rs?)?|d(?:ays?)?)(?![a-z])",
    re.IGNORECASE,
)
_SPAN = rf"((?:{_PART.pattern}[\s,]{{0,3}}(?:and\s{{1,3}})?){{1,4}})"
_IN_WORDS = re.compile(
    rf"(?:(?:again|retry|retrying|resets?|available|wait)(?: \w+){{0,3}}? (?:in|after|for)|wait"
    rf"|retry after)[\s:~]{{1,4}}{_SPAN}",
    re.IGNORECASE,
)
_FIELDS = (
    "retryDelay",
    "retry_delay",
    "retry_after",
    "retryAfter",
    "retry_after_seconds",
    "estimated_time",
)
_RESETS = (
    "x-ratelimit-reset-requests",
    "x-ratelimit-reset-tokens",
    "x-ratelimit-reset",
    "ratelimit-reset",
    "x-ratelimit-reset-after",
    "anthropic-ratelimit-requests-reset",
    "anthropic-ratelimit-tokens-reset",
    "x-ratelimit-reset-requests-minute",
)
_MILLISECONDS, _SECONDS = 1e11, 1e9
"""Numbers above these are timestamps, not durations."""


def asked_wait(headers: Mapping[str, str], text: str = "") -> float | None:
    """Return the seconds an endpoint asks to wait, or None.

    Values for this call come first: `Retry-After` (milliseconds, seconds or a date), a field such
    as Google's `retryDelay`, or text ("try again in 1.2s"). The reset times of rate limits, which
    some endpoints send with every reply, come last.
    """
    wait = retry_after(headers)
    if wait is None:
        wait = _in_fields(text)
    if wait is None:
        words = _IN_WORDS.search(text[:20_000])
        wait = span(words[1]) if words else None
    # Headers of per-minute limits say nothing about an exhausted account.
    if wait is None and "insufficient_quota" not in text:
        wait = _until_renewed(headers)
    return wait


def retry_after(headers: Mapping[str, str]) -> float | None:
    """Return the seconds of `retry-after-ms`, or of `Retry-After` as a number, span or date."""
    try:
        if "retry-after-ms" in headers:
            return max(0.0, float(headers["retry-after-ms"]) / 1000)
    except ValueError:
        pass
    value = headers.get("retry-after")
    if value is None:
        return None
    seconds = _moment(value)
    if seconds is not None:
        return seconds
    try:
        return max(0.0, email.utils.parsedate_to_datetime(value).timestamp() - time.time())
    except (ValueError, TypeError, OverflowError):
        return None


def span(text: str) -> float | None:
    """Return the seconds of `1.2s`, `6m0s`, `20ms`, `1h2m`, `2 minutes and 3 seconds`."""
    parts = _PART.findall(text)
    if not parts:
        return None
    return sum(float(number) * _unit(name) for number, name in parts)


def _unit(name: str) -> float:
    lowered = name.lower()
    return _UNITS["ms"] if lowered.startswith(("ms", "milli")) else _UNITS[lowered[0]]


def _moment(value: Any) -> float | None:
    """Return seconds from now: of a number, a duration, a timestamp in (milli)s, or an ISO date."""
    if isinstance(value, bool):
        return None
    try:
        number = float(value)
    except (TypeError, ValueError, OverflowError):
        return _span_or_date(str(value))
    if number != number or number in (float("inf"), float("-inf")):
        return None
    if number > _MILLISECONDS:
        number = number / 1000 - time.time()
    elif number > _SECONDS:
        number -= time.time()
    return max(0.0, number)


def _span_or_date(text: str) -> float | None:
    text = text[:60].strip()
    if re.fullmatch(rf"(?:{_PART.pattern}\s{{0,3}}){{1,4}}", text, re.IGNORECASE):
        return span(text)
    try:
        when = datetime.datetime.fromisoformat(text)
    except ValueError:
        return None
    if when.tzinfo is None:
        when = when.replace(tzinfo=datetime.UTC)
    return max(0.0, when.timestamp() - time.time())


def _in_fields(text: str) -> float | None:
    try:
        value = parse_json(text[:100_000])
    except ValueError:
        return None
    return _field(value, 0)


def _field(value: object, depth: int) -> float | None:
    """Return the wait of the first error field that has one."""
    if depth > 8:
        return None
    parts: list[object] = value[:20] if isinstance(value, list) else []
    if isinstance(value, dict):
        for name in _FIELDS:
            given = value.get(name)
            if isinstance(given, dict):
                given = given.get("seconds")
            wait = _moment(given) if given is not None else None
            if wait is not None:
                return wait
        if isinstance(value.get("headers"), dict):
            lowered = {str(k).lower(): str(v) for k, v in value["headers"].items()}
            wait = asked_wait(lowered)
            if wait is not None:
                return wait
        parts = list(value.values())[:40]
    for part in parts:
        wait = _field(part, depth + 1) if isinstance(part, (dict, list)) else None
        if wait is not None:
            return wait
    return None


def _until_renewed(headers: Mapping[str, str]) -> float | None:
    """Return the wait until the exhausted limit resets; the longest one if none is named."""
    waits = []
    for name in _RESETS:
        left = headers.get(name.replace("reset", "remaining"))
        if name in headers and (left is None or left.strip() in ("0", "0.0")):
            wait = _moment(headers[name])
            if wait is not None:
                waits.append(wait)
    return max(waits) if waits else None
