"""Supervised fine-tuning: next-token loss on labelled positions."""

from __future__ import annotations

from collections.abc import Mapping

from kdharness.harness.config.training import SFTConfig
from kdharness.harness.protocols import Job, Outcome
from kdharness.trainers.context import TrainContext
from kdharness.trainers.loop import train as train_method
from kdharness.trainers.losses.fused import Mix
from kdharness.trainers.step import Objective


def train(config: SFTConfig, job: Job) -> Outcome:
    """Fine-tune the student on the answers in its data."""

    def build(setting: TrainContext) -> tuple[Objective, Mapping[str, str]]:
        return Objective(Mix(kl_weight=0.0, ce_weight=1.0)), {}

    return train_method(config, job, build)
