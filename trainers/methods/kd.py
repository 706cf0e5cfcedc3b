"""Knowledge distillation from a larger teacher's distributions and attention.

See docs/method.md#losses:

L = (1 − λ) L_ntp + λ (L_pred + γ L_attn)
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from kdharness.harness.config.training import KDConfig
from kdharness.harness.models.lm_head import causal_model
from kdharness.harness.protocols import Job, Outcome
from kdharness.harness.types import Checkpoint
from kdharness.trainers.attention_hook import install_attention_hook
from kdharness.trainers.context import TrainContext
from kdharness.trainers.layers import map_layers
from kdharness.trainers.loop import train as train_method
from kdharness.trainers.step import Objective
from kdharness.trainers.students.cut import kept_of
from kdharness.trainers.teachers.build import (
    load_frozen,
    make_mix,
    make_sampled_mix,
    parent_of,
    runs_on,
    shared_vocab,
)
from kdharness.trainers.teachers.cached import cached_teacher
from kdharness.trainers.teachers.online import OnlineTeacher

if TYPE_CHECKING:
    from transformers import PreTrainedModel


def train(config: KDConfig, job: Job) -> Outcome:
    """Distill the teacher into the student."""

    def build(setting: TrainContext) -> tuple[Objective, Mapping[str, str]]:
        parent = parent_of(config.teacher, job.paths, job.reporter)
        vocab = shared_vocab(setting, config.teacher)
        spec = config.trainer
        if config.teacher.cache:
            teacher: Any = cached_teacher(setting, config.teacher, parent.model, vocab)
            return Objective(make_mix(spec), {0: teacher}), {"teacher": parent.id}
        model = load_frozen(config.teacher, setting, shard=True)
        layers: dict[int, int] = {}
        if spec.has_attention_loss:
            layers = attention_layers(config, setting, model, parent)
            install_attention_hook(model)
            install_attention_hook(causal_model(setting.student))
        method = Objective(
            make_mix(spec),
            {0: OnlineTeacher(model, vocab, runs_on=runs_on(config.teacher, setting))},
            layers,
            spec.distill_weight * spec.attention_weight,
            spec.attention_block,
            sampled_mix=make_sampled_mix(spec),
        )
        return method, {"teacher": parent.id}

    return train_method(config, job, build, teacher=config.teacher.model)


def attention_layers(
    config: KDConfig, setting: TrainContext, teacher: PreTrainedModel, parent: Checkpoint
) -> dict[int, int]:
    """Return student layer -> teacher layer for the attention loss."""
    depth = causal_model(setting.student).config.num_hidden_layers
    spec = config.trainer
    kept = (
        kept_of(setting.start, parent, setting.job.paths) if spec.layer_map == "uniform" else None
    )
    layers = map_layers(kept or spec.layer_map, depth, teacher.config.num_hidden_layers)
    if spec.attention_layers is not None:
        layers = dict(sorted(layers.items())[-spec.attention_layers :])
    return layers
