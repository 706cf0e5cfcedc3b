"""The records of the project, as frozen dataclasses. Imports no other module of kdharness.

    RunConfig -> Run -> Checkpoint -> Answer -> Judgment -> Score

Everything up to `Judgment` is stored. A `Score` is always derived from judgments, so that a
better formula never needs a new answer or a new judge call.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any

Message = dict[str, str]
"""One chat turn: `{"role": "system" | "user" | "assistant", "content": text}`."""


class Method(StrEnum):
    """How a checkpoint was made."""

    SFT = "sft"
    KD = "kd"
    DAE = "dae"
    MERGE = "merge"
    CUT = "cut"
    MODEL = "model"
    IMPORT = "import"


class RunStatus(StrEnum):
    """Status of a run. `INTERRUPTED` is derived: running, but its process is gone."""

    STARTING = "starting"
    RUNNING = "running"
    PAUSED = "paused"
    STOPPED = "stopped"
    FINISHED = "finished"
    FAILED = "failed"
    INTERRUPTED = "interrupted"

    @property
    def is_live(self) -> bool:
        """Whether the run is expected to have a process."""
        return self in (RunStatus.STARTING, RunStatus.RUNNING, RunStatus.PAUSED)


class Request(StrEnum):
    """Control requests to a worker."""

    STOP = "stop"
    PAUSE = "pause"
    RESUME = "resume"


class Finish(StrEnum):
    """Why an answer ended."""

    STOP = "stop"
    LENGTH = "length"
    ERROR = "error"


class JudgmentStatus(StrEnum):
    """`OK` has a value; `UNREADABLE` is a reply without a verdict; `FAILED` has no reply."""

    OK = "ok"
    UNREADABLE = "unreadable"
    FAILED = "failed"


@dataclass(frozen=True)
class Run:
    """A training, merge, evaluation or experiment, with its own worker process."""

    id: str
    method: str
    status: RunStatus
    config: dict[str, Any]
    config_hash: str
    folder: str
    created: float
    step: int = 0
    max_steps: int = 0
    loss: float | None = None
    started: float | None = None
    finished: float | None = None
    heartbeat: float | None = None
    pid: int | None = None
    pid_started: float | None = None
    host: str = ""
    checkpoint: str | None = None
    error: str = ""
    info: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Checkpoint:
    """A folder of weights and where they came from.

    `id` identifies the content of the folder (see `harness.models.identity`), so that the same
    folder under another path is the same checkpoint. It combines two hashes: `weights` identifies
    the model, and together with `interface` the answers it gives. Both are empty for imported
    answers, and for checkpoints that older versions identified by samples of the weights.
    `parents` maps a role (student, teacher, expert, reference) to the id of a checkpoint. `path`
    is empty for imported answers, and for the previous content of a folder that has changed.
    """

    id: str
    name: str
    method: str
    path: str
    created: float
    run: str | None = None
    step: int = 0
    parents: dict[str, str] = field(default_factory=dict)
    config_hash: str = ""
    info: dict[str, Any] = field(default_factory=dict)
    weights: str = ""
    interface: str = ""

    @property
    def model(self) -> str:
        """The identity of the model: equal for checkpoints with the same weights."""
        return self.weights or self.id


@dataclass(frozen=True)
class Answer:
    """A model's text for one turn of one item. `settings` is the hash of generation settings."""

    id: str
    checkpoint: str
    bench: str
    revision: str
    item: str
    turn: int
    text: str
    finish: Finish
    prompt_hash: str
    settings: str
    created: float
    prompt_tokens: int = 0
    tokens: int = 0
    seconds: float = 0.0
    info: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Judgment:
    """A judgment of one answer (or a pair): the raw reply and the parsed value.

    `value` is in the metric's own unit (1-10 for MT-Bench, 1-2 for an AlpacaEval preference, 0-1
    for exact metrics, a sum of nats for losses); `weight` is its divisor in means (tokens for
    losses, otherwise 1). `id` is a hash of judge, settings, prompt, answer and benchmark
    revision, so that no call is made twice.
    """

    id: str
    checkpoint: str
    bench: str
    revision: str
    item: str
    turn: int
    category: str
    judge: str
    metric: str
    status: JudgmentStatus
    created: float
    value: float | None = None
    weight: float = 1.0
    answer: str | None = None
    baseline: str = ""
    order: int = 0
    raw: str = ""
    error: str = ""
    prompt_tokens: int = 0
    tokens: int = 0
    usd: float = 0.0
    info: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Score:
    """One row of the leaderboard. `flags` are explained by `analysis.metrics.LEGEND`."""

    checkpoint: str
    run: str | None
    method: str
    bench: str
    metric: str
    value: float | None
    ci_low: float | None
    ci_high: float | None
    n: int
    n_failed: int
    judge: str
    flags: tuple[str, ...] = ()

    def as_dict(self) -> dict[str, Any]:
        """Return the stable form of `leaderboard --format json`."""
        return {
            "checkpoint": self.checkpoint,
            "run": self.run,
            "method": self.method,
            "bench": self.bench,
            "metric": self.metric,
            "value": self.value,
            "ci_low": self.ci_low,
            "ci_high": self.ci_high,
            "n": self.n,
            "n_failed": self.n_failed,
            "judge": self.judge,
            "flags": list(self.flags),
        }


def digest(*parts: Any) -> str:
    """Return a short hash of JSON-serialisable parts: the identity of configs, prompts, answers."""
    text = json.dumps(parts, sort_keys=True, ensure_ascii=False, separators=(",", ":"))
    return hashlib.sha256(text.encode("utf-8", "surrogatepass")).hexdigest()[:20]


@dataclass(frozen=True)
class MetricValue:
    """One derived value with its interval."""

    metric: str
    value: float | None
    ci_low: float | None
    ci_high: float | None
    n: int
    n_failed: int = 0
    flags: tuple[str, ...] = ()


def unanswered_id(judge: str, checkpoint: str, place: tuple[str, str, str, int], *more: str) -> str:
    """Return the id of the failed judgment for a missing answer.

    Args:
        place: benchmark, revision, item and turn.
        more: metric and baseline, if there are several.
    """
    return digest("unanswered", judge, checkpoint, *place, *more)


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

    `choices` are first tokens whose log-probability is needed even if they are not among the top
    ones; an engine with the full distribution adds them, an endpoint cannot. `stops` are texts
    after which the rest is irrelevant; an engine may stop after them, or ignore them.
    `thinking_room` is the number of tokens on top of `max_new_tokens` for reasoning models whose
    endpoint counts reasoning tokens against the limit.
    """

    messages: tuple[Message, ...]
    temperature: float = 0.0
    max_new_tokens: int = 1024
    seed: int = 0
    top_logprobs: int = 0
    choices: tuple[str, ...] = ()
    stops: tuple[str, ...] = ()
    thinking_room: int = 0


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
class Probe:
    """What an engine supports, tested before the first request.

    `models` are those an endpoint lists (possibly none), `context` is the context length in
    tokens (None if unknown), `note` is a one-line message for the user.
    """

    reachable: bool
    model_known: bool | None = None
    logprobs: bool = False
    context: int | None = None
    models: tuple[str, ...] = ()
    seconds: float = 0.0
    note: str = ""


@dataclass(frozen=True)
class JudgeCall:
    """A request to a judge about one answer (or pair), and what identifies it.

    `info` is stored with the judgment; `order` distinguishes the two orders of a pair.
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


@dataclass(frozen=True)
class Verdict:
    """The verdict parsed from a judge's reply."""

    status: JudgmentStatus
    value: float | None = None
    info: Mapping[str, Any] = field(default_factory=dict)
