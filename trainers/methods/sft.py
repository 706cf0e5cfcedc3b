"""Supervised fine-tuning: next-token loss on labelled positions.

With `trainer.token_weights: talr`, improbable tokens count for less (`losses.token_weights`).
"""

from __future__ import annotations

from collections.abc import Mapping

from kdharness.harness.config.training import SFTConfig
from kdharness.harness.protocols import Job, Outcome
from kdharness.trainers.context import TrainContext
from kdharness.trainers.loop import train as train_method
from kdharness.trainers.losses.fused import Mix
from kdharness.trainers.losses.token_weights import TokenWeights
from kdharness.trainers.step import Objective


def train(config: SFTConfig, job: Job) -> Outcome:
    """Fine-tune the student on the answers in its data."""
    spec = config.trainer
    weights = None if spec.token_weights == "none" else TokenWeights(spec.token_weight_floor)

    def build(setting: TrainContext) -> tuple[Objective, Mapping[str, str]]:
        return Objective(Mix(kl_weight=0.0, ce_weight=1.0, token_weights=weights)), {}

    return train_method(config, job, build)
