"""Runs, their states, and what is stored of them."""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any, TypedDict


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
