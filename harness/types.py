"""The records of the project, as frozen dataclasses. Imports no other module of kdharness.

    RunConfig -> Run -> Checkpoint -> Answer -> Judgment -> Score

Everything up to `Judgment` is stored. A `Score` is derived, so that a better formula needs no call.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from enum import StrEnum
from typing import Any, TypedDict

Message = dict[str, str]
"""One chat turn: `{"role": "system" | "user" | "assistant", "content": text}`."""


class Method(StrEnum):
    """How a checkpoint was made."""

    SFT = "sft"
    KD = "kd"
    DAE = "dae"
    MERGE = "merge"
    CUT = "cut"
    EXPORT = "export"
    MODEL = "model"
    IMPORT = "import"
    EVAL = "eval"
    SWEEP = "sweep"


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


class EvaluationResult(TypedDict):
    """What an evaluation did; `RunInfo.result`."""

    answers: int
    failed_answers: int
    judgments: int
    failed_judgments: int
    reused: int
    usd: float
    waiting: list[str]
    left: int
    checkpoints: list[str]


class RunInfo(TypedDict, total=False):
    """What a run's row holds besides its columns; `queued` is its place in a queue, of a home."""

    accelerate: str
    stage: str
    stage_began: float
    stage_first: int
    stage_last: float
    trusted_code: list[str]
    at_work: str
    in_experiment: bool
    queued: tuple[float, str]
    result: EvaluationResult
    tokens: int
    labelled: int
    flops: float
    padding_share: float
    shares: dict[str, float]
    processes: int


class CheckpointInfo(TypedDict, total=False):
    """How a checkpoint was made: share of a merge, kept layers, type of an export, cost."""

    alpha: float
    kept_layers: list[int]
    merged_from: str
    exported: str
    tokens: int
    labelled: int
    flops: float


class JudgmentInfo(TypedDict, total=False):
    """Further data of a judgment.

    `call` is the key of the paid call; `copied`, `mirrored` the judgment it was made from; `len_1`,
    `len_2` the characters of the baseline's and the model's answer; `headers`, `lists`, `bold`
    differences in style; `stderr` a reported value's; `published` a score that only the benchmark's
    own script counts; `absent` an item that an imported file left out; `without` what the endpoint
    refused; `distribution` the probabilities of ratings under an expected one, `mass` their sum.
    """

    call: str
    copied: str
    mirrored: str
    len_1: int
    len_2: int
    headers: float
    lists: float
    bold: float
    stderr: float
    published: float
    absent: bool
    why: str
    prompt: str
    truncated: bool
    without: list[str]
    estimated: bool
    distribution: dict[str, float]
    mass: float


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
    info: RunInfo = field(default_factory=RunInfo)


@dataclass(frozen=True)
class Checkpoint:
    """A folder of weights, or a GGUF file, and where they came from.

    `id` identifies its content (see `harness.models.identity`), wherever it is. It combines two
    hashes: `weights` identifies the model, and together with `interface` its answers. Both are
    empty for imported answers, and for what older versions identified by samples of the weights.
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
    info: CheckpointInfo = field(default_factory=CheckpointInfo)
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
    for exact metrics, a sum of nats for losses), `weight` its divisor in means (tokens, else 1).
    `id` hashes judge, settings, prompt, answer and revision: no call is made twice.
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
    info: JudgmentInfo = field(default_factory=JudgmentInfo)


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
        return {**asdict(self), "flags": list(self.flags)}


def digest(*parts: object) -> str:
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
