"""The meaning of an HTTP error, for this call or for every call of the run. Pure.

One rejected call is one failure. The run ends only if every other call is certain to be rejected
as well: an invalid key, an unknown model, an exhausted account. Ambiguous errors are counted by the
client, which ends the run if it gets nothing else.
"""

from __future__ import annotations

import re

from kdharness.harness.util.redact import KEY_NAMES
from kdharness.harness.util.untrusted import parse_json
from kdharness.judges.engines.dialect import speaks_of_logprobs
from kdharness.judges.engines.trouble import CONTENT, CallError, Trouble, short

LONGEST_ASKED_WAIT = 900.0
"""The longest wait, in seconds, that an endpoint may ask for before the run ends."""

KEYS = " or ".join(reversed(KEY_NAMES))
CHECK_KEY = f"check the key in {KEYS}"
CHECK_MODEL = "check the model name and the base URL of the API (often ending in /v1)"
CHECK_ACCOUNT = "the account's quota is exhausted; finished calls are stored"
CHECK_URL = "use the URL it redirects to, if you trust it: redirects are not followed"
HINTS = {
    402: CHECK_ACCOUNT,
    403: CHECK_KEY,
    404: CHECK_MODEL,
    407: "the proxy requires a user name and a password in its URL",
}

_KEY = re.compile(
    r"api[ _-]?key|credential|authenti|authori[sz]|permission|not allowed to (?:access|sample|use)"
    r"|unsupported_country|country, region|access denied"
    r"|\btoken\b.{0,30}\b(?:invalid|expired)|(?:invalid|expired) token",
    re.IGNORECASE,
)
_BAD_KEY = re.compile(
    r"(?:incorrect|invalid|missing|expired|bad|wrong|no|unknown)[ _-]api[ _-]?key|api[ _-]?key"
    r"(?: is)? (?:not valid|invalid|missing|expired|required|not found)|api_key_invalid"
    r"|didn't provide an api key|authentication ?error|authorization header"
    r"|access token (?:is )?(?:invalid|expired)|not authenticated",
    re.IGNORECASE,
)
_BLOCKED = re.compile(
    r"\b(?:account|organi[sz]ation|project|api[ _-]?key)\b.{0,60}\b(?:flagged|blocked|suspended"
    r"|disabled|deactivated|restricted|banned|violat\w{1,6}|not active|be verified)"
    r"|account_(?:flagged|deactivated|suspended)",
    re.IGNORECASE,
)
"""Errors about the account; they use words of moderation, but do not concern a text."""
_NO_MODEL = re.compile(
    r"model[_ ]not[_ ]found|(?:unknown|invalid|no such)[_ ]model|deployment(?:notfound| .{0,60}does"
    r" not exist)|not a valid model|model\b.{0,120}?(?:does not exist|doesn't exist|not found"
    r"|is not available|not exist|not supported by any provider)|(?:can't|cannot|could not) find"
    r" (?:the )?model|no model named|deprecated and|(?:does|do) not have access to (?:the )?model"
    r"|invalid model name",
    re.IGNORECASE,
)
_NO_MONEY = (
    r"insufficient[_ ](?:quota|balance|credits?|funds)|exceeded your current quota|out of credits"
    r"|credit balance is too low|balance is not enough|no credits (?:left|remain)"
    r"|credits? (?:is|are|has|have)(?: been)? (?:exhausted|used)"
    r"|quota (?:is |has been )?(?:exhausted|used up)|billing_(?:hard_limit|not_active)"
    r"|exceeded_current_quota|key limit exceeded|欠费|余额不足|请充值"
)
_NO_MONEY_LEFT = re.compile(_NO_MONEY, re.IGNORECASE)
_USED_UP = re.compile(_NO_MONEY + r"|hard limit|arrear|per[ _-]?day|daily", re.IGNORECASE)
_TOO_LARGE = re.compile(
    r"request too large|reduce your message|tokens must be reduced", re.IGNORECASE
)
_A_MINUTE = re.compile(
    r"per[ _-]?(?:minute|second)|\brpm\b|\btpm\b|\bqps\b|requests?_per_min|minute|concurren\w{1,4}"
    r"|too many requests at once",
    re.IGNORECASE,
)
_TOO_LONG = re.compile(
    r"exceeds? the (?:available |model'?s? |maximum )?context|context[ _](?:length|window|size)"
    r"|maximum context|prompt is too long|input (?:is )?too long|too many (?:input )?tokens"
    r"|longer than the (?:maximum|model)|prompt too long|exceed_context_size|max_model_len"
    r"|input length .{0,40}exceeds|reduce the length",
    re.IGNORECASE,
)
_SPENT = re.compile(
    r"max_(?:completion_|output_)?tokens or model output limit was reached"
    r"|unable to complete request: max_\w{0,12}tokens"
)


def status_error(status: int, text: str, wait: float | None) -> CallError:
    """Return the error for an HTTP status, with its meaning for the call and the run.

    Args:
        text: the body.
        wait: seconds to wait, from its headers or its body.
    """
    reason = short(text)
    message = f"HTTP {status}: {reason}"
    marks = f"{reason} {_codes(text)}"
    if 300 <= status < 400:
        moved = f"HTTP {status}: the endpoint has moved"
        return CallError(moved, Trouble.FATAL, hint=CHECK_URL)
    if wait is not None and wait > LONGEST_ASKED_WAIT:
        return CallError(
            f"{message} (retry after {in_words(wait)})",
            Trouble.FATAL,
            wait,
            hint=f"run the same command again in {in_words(wait)}; finished calls are stored",
        )
    if status == 401 or _BAD_KEY.search(marks):
        return CallError(message, Trouble.FATAL, hint=CHECK_KEY)
    if _TOO_LARGE.search(marks):
        return CallError(message, Trouble.GIVE_UP)
    if status == 429:
        return _limited(message, marks, wait)
    if status < 501 and speaks_of_logprobs(text):
        return CallError(
            f"the endpoint returns no log-probabilities ({message})",
            Trouble.REFUSED,
            lacks_logprobs=True,
            hint="use --discrete to read the token itself",
        )
    if _SPENT.search(marks):
        return CallError(message, Trouble.GIVE_UP, thinks=True)
    if _TOO_LONG.search(marks):
        return CallError(message, Trouble.GIVE_UP)
    if status in (408, 409, 425) or status >= 500:
        return CallError(message, Trouble.RETRY, wait)
    return _refused(status, message, marks)


def _refused(status: int, message: str, marks: str) -> CallError:
    """Return the error for a status of 400 or more: for this call, or for all.

    Errors about the key, the account and the model are checked before those about the text: they
    reject every call, and may use the same words.
    """
    if _NO_MONEY_LEFT.search(marks) or (status in (402, 403) and _USED_UP.search(marks)):
        return CallError(message, Trouble.FATAL, hint=CHECK_ACCOUNT)
    if status == 403 and _BLOCKED.search(marks):
        return CallError(message, Trouble.FATAL, hint=CHECK_KEY)
    if CONTENT.search(marks):
        return CallError(message, Trouble.GIVE_UP)
    if status in (400, 403, 404, 422) and _NO_MODEL.search(marks):
        return CallError(message, Trouble.FATAL, hint=CHECK_MODEL)
    if status == 403 and _KEY.search(marks):
        return CallError(message, Trouble.FATAL, hint=CHECK_KEY)
    return CallError(message, Trouble.REFUSED, hint=HINTS.get(status, ""))


def _limited(message: str, marks: str, wait: float | None) -> CallError:
    """Return the error for HTTP 429: wait, unless the account is exhausted or blocked."""
    used_up = _USED_UP.search(marks) or _BLOCKED.search(marks)
    if wait is None and used_up and not _A_MINUTE.search(marks):
        return CallError(message, Trouble.FATAL, hint=CHECK_ACCOUNT)
    return CallError(message, Trouble.RETRY, wait)


def in_words(seconds: float) -> str:
    """Format a duration: `40 s`, `6 min`, `1 h 2 min`."""
    if seconds < 90:
        return f"{seconds:.0f} s"
    hours, minutes = divmod(round(seconds / 60), 60)
    parts = [f"{hours} h" if hours else "", f"{minutes} min" if minutes else ""]
    return " ".join(part for part in parts if part)


def _codes(text: str) -> str:
    """Return a body's short fields (code, type, status, quota names), never our own texts."""
    try:
        value = parse_json(text[:100_000])
    except ValueError:
        return ""
    codes: list[str] = []
    _gather(value, codes, 0)
    return " ".join(codes)[:2000]


_SHORT_FIELDS = (
    "code",
    "type",
    "status",
    "reason",
    "quotaId",
    "quotaMetric",
    "error",
    "detail",
    "innererror",
    "details",
    "violations",
    "metadata",
    "reasons",
    "raw",
)


def _gather(value: object, codes: list[str], depth: int) -> None:
    if isinstance(value, (str, int)):
        codes.append(str(value)[:400])
    elif isinstance(value, list) and depth < 8:
        for part in value[:20]:
            _gather(part, codes, depth + 1)
    elif isinstance(value, dict) and depth < 8:
        for name in _SHORT_FIELDS:
            if name in value:
                _gather(value[name], codes, depth + 1)
