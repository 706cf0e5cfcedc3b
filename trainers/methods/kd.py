"""Knowledge distillation: a bigger teacher's distributions and its attention (METHOD.md 2).

L = (1 − λ) L_ntp + λ (L_pred + γ L_attn)
"""

from __future__ import annotations

import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from kdharness.harness.config.training import DistillSpec, KDConfig, TeacherSpec
from kdharness.harness.errors import KDHarnessError
from kdharness.harness.models.checkpoints import model_checkpoint
from kdharness.harness.models.limits import limits_of
from kdharness.harness.models.lm_head import causal_model
from kdharness.harness.models.loading import load_config_of, load_model, load_tokenizer
from kdharness.harness.paths import Paths
from kdharness.harness.protocols import Job, Outcome
from kdharness.harness.store import Store
from kdharness.harness.types import Checkpoint, Reporter, digest
from kdharness.harness.types import Method as CheckpointMethod
from kdharness.trainers.context import Setting
from kdharness.trainers.loop import train as train_method
from kdharness.trainers.losses.attention import listen
from kdharness.trainers.losses.fused import Mix
from kdharness.trainers.preflight import hold
from kdharness.trainers.students.cut import kept_of, map_layers
from kdharness.trainers.teachers.online import OnlineTeacher, check_tokenizers
from kdharness.trainers.trainer import Method


def train(config: KDConfig, job: Job) -> Outcome:
    """Distil the teacher into the student."""

    def build(setting: Setting) -> tuple[Method, Mapping[str, str]]:
        parent = parent_of(config.teacher, job.paths, job.reporter)
        vocab = shared_vocab(setting, config.teacher.model)
        spec = config.trainer
        if config.teacher.cache:
            from kdharness.trainers.teachers.cached import cached_teacher

            teacher: Any = cached_teacher(setting, config.teacher, parent.model, vocab)
            return Method(make_mix(spec), {0: teacher}), {"teacher": parent.id}
        model = load_frozen(config.teacher, setting)
        layers: dict[int, int] = {}
        if spec.attention_weight and spec.distill_weight:
            layers = attention_layers(config, setting, model, parent)
            listen(model)
            listen(causal_model(setting.student))
        method = Method(
            make_mix(spec),
            {0: OnlineTeacher(model, vocab)},
            layers,
            spec.distill_weight * spec.attention_weight,
            spec.attention_block,
        )
        return method, {"teacher": parent.id}

    return train_method(config, job, build, teacher=config.teacher.model)


def make_mix(spec: DistillSpec) -> Mix:
    """λ and the divergence, as the fused loss takes them."""
    return Mix(
        temperature=spec.temperature,
        divergence=spec.divergence,
        beta=spec.beta,
        kl_weight=spec.distill_weight,
        ce_weight=1.0 - spec.distill_weight,
        chunk=spec.chunk,
    )


def parent_of(spec: TeacherSpec, paths: Paths, reporter: Reporter | None = None) -> Checkpoint:
    """The checkpoint that lineage names as a teacher.

    One that is served elsewhere may have no weights here: it is known by its name then.
    """
    try:
        return model_checkpoint(paths, spec.model, reporter=reporter)
    except KDHarnessError:
        if not spec.served:
            raise
    with Store(paths.store) as store:
        return store.add_checkpoint(
            Checkpoint(
                id=digest("served", spec.model),
                name=Path(spec.model).name,
                method=CheckpointMethod.MODEL.value,
                path="",
                created=time.time(),
            )
        )


def load_frozen(spec: TeacherSpec, setting: Setting) -> Any:
    """A teacher's model, on the student's device.

    Raises:
        DataError: the rows hold a token or a length that it cannot take.
    """
    model = load_model(
        spec.model,
        setting.job.paths,
        dtype=setting.config.trainer.dtype,
        device=setting.device,
        trust_remote_code=spec.trust_remote_code,
        quantization=spec.quantization.model_dump() if spec.quantization else None,
    )
    limits = limits_of(model)
    hold(setting.train, limits, setting.tokenizer, spec.model, setting.config.data)
    if setting.pad_id >= limits.vocabulary:
        setting.pad_id = 0
    return model


def shared_vocab(setting: Setting, teacher: str) -> int:
    """How many ids student and teacher share; 0 when their heads are equally wide.

    Raises:
        ModelError: their tokenizers differ.
    """
    tokenizer = load_tokenizer(teacher, setting.job.paths)
    shared = check_tokenizers(setting.tokenizer, tokenizer, setting.start.name, teacher)
    config = load_config_of(teacher, setting.job.paths)
    theirs = config.get_text_config().vocab_size
    ours = causal_model(setting.student).config.get_text_config().vocab_size
    return 0 if ours == theirs else min(ours, theirs, shared)


def attention_layers(
    config: KDConfig, setting: Setting, teacher: Any, parent: Checkpoint
) -> dict[int, int]:
    """Student layer -> teacher layer for the attention loss."""
    depth = causal_model(setting.student).config.num_hidden_layers
    spec = config.trainer
    kept = (
        kept_of(setting.start, parent, setting.job.paths) if spec.layer_map == "uniform" else None
    )
    layers = map_layers(kept or spec.layer_map, depth, teacher.config.num_hidden_layers)
    if spec.attention_layers is not None:
        layers = dict(sorted(layers.items())[-spec.attention_layers :])
    return layers
