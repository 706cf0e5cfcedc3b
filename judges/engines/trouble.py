"""Failed calls, and how to handle them. Pure."""

from __future__ import annotations

import json
import re
from dataclasses import dataclass
from enum import Enum

from kdharness.harness.util.untrusted import parse_json

LONGEST_ERROR = 20_000

CONTENT = re.compile(
    r"moderation|flagged|content[ _-]?(?:filter|policy|management)|responsibleai|safety|unsafe"
    r"|policy violation|prohibited|harmful|inappropriate|sensitive|guardrail|risk control"
    r"|data.?inspection|violat\w{1,6} .{0,60}polic|usage polic|exists? risk"
    r"|敏感|不安全|违规|違規|风险",
    re.IGNORECASE,
)
"""Words of an error about what a text says."""


class Trouble(Enum):
    """How to handle a failed call.

    Attributes:
        RETRY: it may succeed if retried.
        GIVE_UP: this call will never succeed; it is one failure.
        REFUSED: as `GIVE_UP`, and perhaps every call is rejected; the client counts them.
        FATAL: every other call would fail as well.
    """

    RETRY = "retry"
    GIVE_UP = "give up"
    REFUSED = "refused"
    FATAL = "fatal"


@dataclass(frozen=True)
class Used:
    """The input and output tokens of a call, which may be billed."""

    prompt: int = 0
    written: int = 0
    estimated: bool = False


class CallError(Exception):
    """A failed call, and how to handle it.

    Attributes:
        trouble: how to handle it.
        wait: seconds that the endpoint asks to wait.
        hint: what a user can do if it ends the run.
        lacks_logprobs: whether it was rejected because log-probabilities were requested.
        thinks: whether the model spent its tokens on reasoning.
        used: the tokens of the call, which may be billed although it failed.
        most: how often it may be tried again at most, if less often than other errors.
    """

    def __init__(
        self,
        message: str,
        trouble: Trouble,
        wait: float | None = None,
        *,
        hint: str = "",
        lacks_logprobs: bool = False,
        thinks: bool = False,
        used: Used | None = None,
        most: int | None = None,
    ) -> None:
        super().__init__(message)
        self.message = message
        self.trouble = trouble
        self.wait = wait
        self.hint = hint
        self.lacks_logprobs = lacks_logprobs
        self.thinks = thinks
        self.used = used
        self.most = most
        self.times = 0

    def after(self, before: CallError | None) -> CallError:
        """Return this error, knowing how many with a limit of their own the call has had."""
        self.times = (before.times if before is not None else 0) + (self.most is not None)
        return self

    def is_retried(self, attempt: int, retries: int) -> bool:
        """Return whether a call is tried again after its failure number `attempt`."""
        if self.most is not None and self.times > self.most:
            return False
        return self.trouble is Trouble.RETRY and attempt <= retries


def short(text: str, limit: int = 300) -> str:
    """Return an error's message, extracted from JSON or HTML, without line breaks."""
    message = text = text[:LONGEST_ERROR]
    try:
        value = parse_json(text)
        # Google's compatible endpoint returns a list with one error.
        value = value[0] if isinstance(value, list) and value else value
        inner = value.get("error", value) if isinstance(value, dict) else value
        if isinstance(inner, dict):
            inner = inner.get("message", inner)
        message = inner if isinstance(inner, str) else json.dumps(inner)
        if beside := message_of(text):
            message = f"{message}: {beside}"
    except ValueError:
        message = re.sub(r"<[^<>]+>", " ", text)
    message = " ".join(message.split())
    return message if len(message) <= limit else message[:limit] + "…"


def message_of(text: str, limit: int = 300) -> str:
    """Return the `message` beside an error that is only a code; empty if there is none."""
    try:
        value = parse_json(text[:LONGEST_ERROR])
    except ValueError:
        return ""
    value = value[0] if isinstance(value, list) and value else value
    if not isinstance(value, dict) or not isinstance(value.get("error"), str):
        return ""
    message = value.get("message", value.get("detail"))
    return " ".join(message.split())[:limit] if isinstance(message, str) else ""


def advice(error: CallError) -> str:
    """Return a hint for an error that ends the run."""
    return error.hint or (
        "is the server running? Finished calls are stored; run the same command again"
    )
