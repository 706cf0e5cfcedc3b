"""A call that did not work, and what is to be done about it. Pure."""

from __future__ import annotations

import json
import re
from dataclasses import dataclass
from enum import Enum

from kdharness.harness.util.untrusted import parse_json

LONGEST_ERROR = 20_000


class Trouble(Enum):
    """What to do about a call that did not work.

    Attributes:
        RETRY: it may work in a moment.
        GIVE_UP: this call never works; it is one failure.
        REFUSED: as `GIVE_UP`, and perhaps every call is refused: who counts them will tell.
        FATAL: every other call would fail as well.
    """

    RETRY = "retry"
    GIVE_UP = "give up"
    REFUSED = "refused"
    FATAL = "fatal"


@dataclass(frozen=True)
class Used:
    """Tokens that a call read and wrote, and so may be billed for."""

    prompt: int = 0
    written: int = 0
    estimated: bool = False


class CallError(Exception):
    """A call that did not work, and what is to be done.

    Attributes:
        trouble: what to do.
        wait: seconds that the endpoint asks to wait.
        hint: what a user can do where it ends the run.
        lacks_logprobs: it was refused because log-probabilities were asked for.
        thinks: the model had spent its tokens on thoughts.
        used: what the call cost although it gave nothing.
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
    ) -> None:
        super().__init__(message)
        self.message = message
        self.trouble = trouble
        self.wait = wait
        self.hint = hint
        self.lacks_logprobs = lacks_logprobs
        self.thinks = thinks
        self.used = used


def short(text: str, limit: int = 300) -> str:
    """Return an error's own words, found in JSON or HTML, without line breaks."""
    found = text = text[:LONGEST_ERROR]
    try:
        value = parse_json(text)
        # Google's compatible endpoint answers with a list of one error.
        value = value[0] if isinstance(value, list) and value else value
        inner = value.get("error", value) if isinstance(value, dict) else value
        if isinstance(inner, dict):
            inner = inner.get("message", inner)
        found = inner if isinstance(inner, str) else json.dumps(inner)
    except ValueError:
        found = re.sub(r"<[^<>]+>", " ", text)
    found = " ".join(found.split())
    return found if len(found) <= limit else found[:limit] + "…"


def advice(error: CallError) -> str:
    """Return what to do about a refusal that ends the run."""
    return error.hint or (
        "is the server running? What was finished is stored; run the same command again"
    )
