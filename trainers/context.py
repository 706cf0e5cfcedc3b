"""What a method needs to build its objective."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from kdharness.harness.config.precision import Precision
from kdharness.harness.config.training import TrainConfig
from kdharness.harness.protocols import Job
from kdharness.harness.types import Checkpoint
from kdharness.trainers.data.batches import BatchPlan
from kdharness.trainers.data.dataset import Dataset


@dataclass
class TrainContext:
    """What a method needs to build its objective: the student, its data and its device."""

    config: TrainConfig
    job: Job
    start: Checkpoint
    student: Any
    tokenizer: Any
    train: Dataset
    heldout: Dataset
    kinds: list[str]
    plan: BatchPlan
    device: str
    precision: Precision
    pad_id: int = 0
