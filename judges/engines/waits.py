"""How long an endpoint asks to wait: in a header, in a field of its error, or in words. Pure."""

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
"""A plain number from there on is a time of day, not a span."""


def asked_wait(headers: Mapping[str, str], text: str = "") -> float | None:
    """Return the seconds an endpoint asks to wait, or None where it names none.

    What is said of this very call goes first: `Retry-After` (milliseconds, seconds or a date),
    a field such as Google's `retryDelay`, or words ("try again in 1.2s"). The times at which
    limits are renewed, which some endpoints send with every reply, are looked at last.
    """
    found = retry_after(headers)
    if found is None:
        found = _in_fields(text)
    if found is None:
        words = _IN_WORDS.search(text[:20_000])
        found = span(words[1]) if words else None
    # Headers of a minute's limits say nothing of an account that is used up.
    if found is None and "insufficient_quota" not in text:
        found = _until_renewed(headers)
    return found


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
    found = _moment(value)
    if found is not None:
        return found
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
    """Seconds from now: a number, a span, a time of day in (milli)seconds, or an ISO date."""
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


def _field(value: Any, depth: int) -> float | None:
    """The first field of an error that names a wait."""
    if depth > 8:
        return None
    parts: list[Any] = value[:20] if isinstance(value, list) else []
    if isinstance(value, dict):
        for name in _FIELDS:
            given = value.get(name)
            if isinstance(given, dict):
                given = given.get("seconds")
            found = _moment(given) if given is not None else None
            if found is not None:
                return found
        if isinstance(value.get("headers"), dict):
            lowered = {str(k).lower(): str(v) for k, v in value["headers"].items()}
            found = asked_wait(lowered)
            if found is not None:
                return found
        parts = list(value.values())[:40]
    for part in parts:
        found = _field(part, depth + 1) if isinstance(part, (dict, list)) else None
        if found is not None:
            return found
    return None


def _until_renewed(headers: Mapping[str, str]) -> float | None:
    """The wait until the limit that is used up is renewed; the longest where none is named."""
    found = []
    for name in _RESETS:
        left = headers.get(name.replace("reset", "remaining"))
        if name in headers and (left is None or left.strip() in ("0", "0.0")):
            wait = _moment(headers[name])
            if wait is not None:
                found.append(wait)
    return max(found) if found else None
