"""Domain alignment from expert: each row follows its own teacher (docs/method.md#routing).

L = (1 − λ) L_ntp + λ L_pred, where the teacher is the domain expert on domain rows and the
reference model on general rows. With μ, domain rows also have μ L_nt: the reference's distribution
over all tokens but the target (`losses.non_target`), for which no general rows are needed.

With LoRA, student, expert and reference share one copy of the base weights: the student's adapter,
the expert's adapter, and no adapter.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

from kdharness.harness.config.models import TeacherSpec
from kdharness.harness.config.training import DAEConfig, field_of, role_of, untrained
from kdharness.harness.models.adapters import is_adapter
from kdharness.harness.models.loading import load_adapter
from kdharness.harness.models.resolve import identity_of, local_folder, naming_base, resolve_model
from kdharness.harness.protocols import Job, Outcome
from kdharness.harness.runs.teachers import refuse_own_place
from kdharness.harness.store import Store
from kdharness.trainers.context import TrainContext
from kdharness.trainers.loop import train as train_method
from kdharness.trainers.losses.fused import Mix
from kdharness.trainers.step import Objective
from kdharness.trainers.teachers.build import (
    load_frozen,
    make_mix,
    make_sampled_mix,
    parent_of,
    runs_on,
    shared_vocab,
)
from kdharness.trainers.teachers.cached import cached_teacher
from kdharness.trainers.teachers.online import AdapterTeacher, OnlineTeacher, Teacher


def train(config: DAEConfig, job: Job) -> Outcome:
    """Align the student with its experts on domain rows and the reference on general rows."""

    def build(setting: TrainContext) -> tuple[Objective, Mapping[str, str]]:
        specs = config.teacher_specs
        teachers: dict[int, Teacher] = {}
        parents: dict[str, str] = {}
        for number, kind in enumerate(setting.kinds):
            teacher, parent = _teacher(specs[kind], kind, setting)
            teachers[number] = teacher
            parents[role_of(kind)] = parent
        sampled = make_sampled_mix(config.trainer)
        objective = Objective(make_mix(config.trainer), teachers, sampled_mix=sampled)
        if not config.trainer.non_target_weight:
            return objective, parents
        known = dict(zip(setting.kinds, teachers.values(), strict=True))
        if "general" not in known:
            known["general"], parents["reference"] = _teacher(config.reference, "general", setting)
        domain = {n: known["general"] for n, kind in enumerate(setting.kinds) if kind != "general"}
        return replace(objective, anchors=domain, anchor_mix=_anchor_mix(config)), parents

    return train_method(config, job, build, teacher=config.main_teacher.model)


def _anchor_mix(config: DAEConfig) -> Mix:
    """Return the weight and the divergence of the loss over non-target tokens."""
    weight = config.trainer.non_target_weight
    return replace(make_mix(config.trainer), kl_weight=weight, ce_weight=0.0)


def _teacher(spec: TeacherSpec | None, kind: str, setting: TrainContext) -> tuple[Teacher, str]:
    """Return the teacher of one kind of rows, and its checkpoint's id."""
    paths = setting.job.paths
    if spec is None:
        # No reference given: use the student as it was before training.
        if setting.config.student.lora:
            return AdapterTeacher(setting.student, None, 0, setting.precision), setting.start.id
        spec = untrained(setting.config, setting.start.path)
    parent = parent_of(spec, paths, setting.job.reporter)
    vocab = shared_vocab(setting, spec)
    if spec.cache:
        return cached_teacher(setting, spec, parent.model, vocab, kind=kind), parent.id
    # Another precision or quantisation needs weights of its own.
    shareable = (
        spec.dtype in ("auto", setting.precision.weights)
        and spec.quantization == setting.config.student.quantization
    )
    if setting.config.student.lora and shareable:
        if parent.model == setting.start.model:
            refuse_own_place(spec, field_of(kind))
            return AdapterTeacher(setting.student, None, vocab, setting.precision), parent.id
        folder = local_folder(spec.model, paths, weights=True)
        if _is_adapter_of(folder, setting):
            refuse_own_place(spec, field_of(kind))
            # Not the kind: peft could take its words for those of a module or of the student's own.
            name = f"teacher{len(setting.student.peft_config)}"
            load_adapter(setting.student, folder, name, spec.model)
            setting.student.set_adapter("default")
            return AdapterTeacher(setting.student, name, vocab, setting.precision), parent.id
    model = load_frozen(spec, setting, shard=True)
    return OnlineTeacher(model, vocab, runs_on=runs_on(spec, setting)), parent.id


def _is_adapter_of(folder: Path, setting: TrainContext) -> bool:
    """Return whether a folder holds an adapter for the student's own base."""
    if not is_adapter(folder):
        return False
    paths = setting.job.paths
    with naming_base(folder) as base, Store(paths.store) as store:
        identity = identity_of(resolve_model(base, paths), paths, store)
    return identity.weights == setting.start.weights
