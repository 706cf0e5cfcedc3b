"""The nouns of the project, as frozen dataclasses. Imports nothing of ours.

    RunConfig -> Run -> Checkpoint -> Answer -> Judgment -> Score

Everything up to `Judgment` is stored. A `Score` is always derived from judgments, so that a
better formula never needs a new answer or a new judge call.
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
    """How a checkpoint came to be."""

    SFT = "sft"
    KD = "kd"
    DAE = "dae"
    MERGE = "merge"
    CUT = "cut"
    MODEL = "model"
    IMPORT = "import"
    EVAL = "eval"
    SWEEP = "sweep"


class RunStatus(StrEnum):
    """Where a run stands. `INTERRUPTED` is derived: running, but its process is gone."""

    STARTING = "starting"
    RUNNING = "running"
    PAUSED = "paused"
    STOPPED = "stopped"
    FINISHED = "finished"
    FAILED = "failed"
    INTERRUPTED = "interrupted"

    @property
    def is_live(self) -> bool:
        """Whether a process is expected to be behind it."""
        return self in (RunStatus.STARTING, RunStatus.RUNNING, RunStatus.PAUSED)


class Request(StrEnum):
    """What a screen or a command may ask of a worker."""

    STOP = "stop"
    PAUSE = "pause"
    RESUME = "resume"


class Finish(StrEnum):
    """Why an answer ended."""

    STOP = "stop"
    LENGTH = "length"
    ERROR = "error"


class JudgmentStatus(StrEnum):
    """`OK` has a value; `UNREADABLE` was answered but holds no verdict; `FAILED` never came."""

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
    """What a run's row holds besides its columns.

    Of any run: the stage at work and when it began (seconds since the epoch), and whose code was
    trusted. Of an experiment `at_work`, of an evaluation `result`, of a training what it cost.
    """

    accelerate: str
    stage: str
    stage_began: float
    stage_first: int
    stage_last: float
    trusted_code: list[str]
    at_work: str
    result: EvaluationResult
    tokens: int
    labelled: int
    flops: float
    padding_share: float
    shares: dict[str, float]


class CheckpointInfo(TypedDict, total=False):
    """How a checkpoint was made: the share of a merge, the layers of a cut, a training's cost."""

    alpha: float
    kept_layers: list[int]
    merged_from: str
    tokens: int
    labelled: int
    flops: float


class JudgmentInfo(TypedDict, total=False):
    """What stands beside a verdict.

    `call` is the key of the call that was paid for; `copied` and `mirrored` the judgment that this
    one was made from; `len_1` and `len_2` the characters of the baseline's and the model's answer;
    `published` a score that only the benchmark's own script counts; `absent` marks an item that an
    imported file left out; `without` what the endpoint refused.
    """

    call: str
    copied: str
    mirrored: str
    len_1: int
    len_2: int
    published: float
    absent: bool
    why: str
    prompt: str
    truncated: bool
    without: list[str]
    estimated: bool


@dataclass(frozen=True)
class Run:
    """One row of work: a training or an evaluation, with its own worker process."""

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
    """A folder of weights and where they came from.

    `id` says what the folder holds (see `harness.identity`), so that the same folder under another
    path is the same checkpoint. `weights` and `interface` are the two hashes it is made of: the
    first decides what is the same model, both decide what answers it gives. Both are empty for
    answers made elsewhere, and for what older versions identified by samples of the weights.
    `parents` maps a role (student, teacher, expert, reference) to the id of the checkpoint that
    played it. `path` is empty for answers made elsewhere, and for what a folder held before it
    was changed.
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
        """What is the same for two checkpoints that hold the same weights."""
        return self.weights or self.id


@dataclass(frozen=True)
class Answer:
    """A model's text for one turn of one item. `settings` is the hash of what made it."""

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
    """A verdict on one answer (or a pair): the raw reply and what was read from it.

    `value` is the metric's own unit (1-10 for MT-Bench, 1-2 for an AlpacaEval preference, 0-1
    for exact metrics, a sum of nats for losses) and `weight` what it is divided by when
    averaged (tokens for losses, otherwise 1). `id` is the identity that makes asking twice
    impossible: judge, its settings, prompt hash, answer hash and benchmark revision.
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
    """One cell of the leaderboard. `flags` are short marks, explained by the legend."""

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
        """The stable form of `leaderboard --format json`."""
        return {**asdict(self), "flags": list(self.flags)}


def digest(*parts: Any) -> str:
    """A short content hash of JSON-able parts: the identity of configs, prompts and answers."""
    text = json.dumps(parts, sort_keys=True, ensure_ascii=False, separators=(",", ":"))
    return hashlib.sha256(text.encode("utf-8", "surrogatepass")).hexdigest()[:20]


@dataclass(frozen=True)
class MetricValue:
    """One derived figure with its interval."""

    metric: str
    value: float | None
    ci_low: float | None
    ci_high: float | None
    n: int
    n_failed: int = 0
    flags: tuple[str, ...] = ()


def unanswered_id(judge: str, checkpoint: str, place: tuple[str, str, str, int], *more: str) -> str:
    """The id of the failed judgment that stands for a missing answer.

    Args:
        place: benchmark, revision, item and turn.
        more: metric and baseline, where one place has several.
    """
    return digest("unanswered", judge, checkpoint, *place, *more)


@dataclass(frozen=True)
class Item:
    """One question of a benchmark: one user turn or several, and how to answer and score it."""

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

    `choices` are first tokens whose log-probability is wanted even where they are not among the
    top ones; an engine that sees the whole distribution adds them, an endpoint cannot. `stops`
    are texts after which nothing matters any more; an engine may end there, keeping them, or
    ignore them. `thinking_room` are tokens on top of `max_new_tokens` for a model that is found
    to think before it answers, where an endpoint counts its thoughts against the limit.
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
    """What an engine said to one request; `error` is set when it said nothing usable.

    `top_logprobs` holds, for the first generated token, (token text, log-probability) pairs.
    `info` tells what a reader of the figures should know: `without` (what was asked for and the
    endpoint refuses), `temperature` (the one sent instead of 0), `estimated` (tokens are guessed
    from characters: the endpoint told none).
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
    """One question to a judge about one answer (or pair), and what identifies it.

    `info` goes with the judgment; `order` tells the two orders of a pair apart.
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
    """What was read from a judge's reply."""

    status: JudgmentStatus
    value: float | None = None
    info: Mapping[str, Any] = field(default_factory=dict)


IGNORE_INDEX = -100
"""The label of a token that no loss is computed for."""
