"""What is stored of checkpoints, their answers and judgments, and the scores made of them."""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any, NamedTuple, TypedDict


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


class CheckpointInfo(TypedDict, total=False):
    """How a checkpoint was made: share of a merge, kept layers, type of an export, cost."""

    alpha: float
    kept_layers: list[int]
    merged_from: str
    exported: str
    tokens: int
    labelled: int
    flops: float
    best_step: int


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

    @property
    def is_best(self) -> bool:
        """Whether these last weights of a run are also its best, and so `RUN@best`."""
        return bool(self.run) and self.info.get("best_step") == self.step and "@" not in self.name


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


class Score(NamedTuple):
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
        return {**self._asdict(), "flags": list(self.flags)}


def digest(*parts: object) -> str:
    """Return a short hash of JSON-serialisable parts: the identity of configs, prompts, answers."""
    text = json.dumps(parts, sort_keys=True, ensure_ascii=False, separators=(",", ":"))
    return hashlib.sha256(text.encode("utf-8", "surrogatepass")).hexdigest()[:20]


class MetricValue(NamedTuple):
    """One derived value with its interval."""

    metric: str
    value: float | None
    ci_low: float | None
    ci_high: float | None
    n: int
    n_failed: int = 0
    flags: tuple[str, ...] = ()
