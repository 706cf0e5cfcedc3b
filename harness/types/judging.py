"""Items of benchmarks, calls of engines and judges, and their results."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from kdharness.harness.types.scores import Finish, JudgmentStatus

Message = dict[str, str]
"""One chat turn: `{"role": "system" | "user" | "assistant", "content": text}`."""


@dataclass(frozen=True)
class Item:
    """One item of a benchmark: one or more user turns, and how to answer and score them."""

    id: str
    category: str
    turns: tuple[str, ...]
    messages: tuple[Message, ...] = ()
    references: tuple[str, ...] = ()
    temperature: float = 0.0
    max_new_tokens: int = 1024
    metric: str = ""
    info: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class GenerationRequest:
    """A chat to continue. `temperature` below 1e-4 means greedy.

    `choices` are first tokens whose log-probability is needed; an engine with the full distribution
    adds them to the top ones, an endpoint cannot. An engine may stop after one of the `stops`, or
    after the line that gives a `verdict` ("rating", "winner"). `thinking_room` are tokens for
    reasoning models whose endpoint counts reasoning against the limit. With an `opening` the reply
    begins with it and has no text; its `top_logprobs` are those of the whole numbers 1 to 10.
    """

    messages: tuple[Message, ...]
    temperature: float = 0.0
    max_new_tokens: int = 1024
    seed: int = 0
    top_logprobs: int = 0
    choices: tuple[str, ...] = ()
    stops: tuple[str, ...] = ()
    thinking_room: int = 0
    opening: str = ""
    verdict: str = ""


@dataclass(frozen=True)
class Reply:
    """An engine's reply to one request; `error` is set if there is no usable reply.

    `top_logprobs` holds, for the first generated token, (token text, log-probability) pairs.
    `info` has what affects the interpretation of scores: `without` (parameters that the endpoint
    rejects), `temperature` (the one sent instead of 0), `estimated` (token counts are estimated
    from characters, because the endpoint returns none).
    """

    text: str = ""
    finish: Finish = Finish.STOP
    prompt_tokens: int = 0
    tokens: int = 0
    seconds: float = 0.0
    usd: float = 0.0
    top_logprobs: tuple[tuple[str, float], ...] | None = None
    error: str = ""
    info: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class JudgeCall:
    """A request to a judge about one answer (or pair), and what identifies it.

    `info` is stored with the judgment, `order` tells a pair's two; see also `GenerationRequest`.
    """

    item: str
    turn: int
    category: str
    metric: str
    messages: tuple[Message, ...]
    answer: str
    baseline: str = ""
    order: int = 0
    max_tokens: int = 2048
    temperature: float = 0.0
    top_logprobs: int = 0
    choices: tuple[str, ...] = ()
    stops: tuple[str, ...] = ()
    info: Mapping[str, Any] = field(default_factory=dict)
    opening: str = ""
    verdict: str = ""


@dataclass(frozen=True)
class Verdict:
    """The verdict parsed from a judge's reply."""

    status: JudgmentStatus
    value: float | None = None
    info: Mapping[str, Any] = field(default_factory=dict)
    weight: float = 1.0  # as `Judgment.weight`


IGNORE_INDEX = -100
"""The label of a token that no loss is computed for."""
