"""Checks that run student and teachers on a few rows: the first loss, before there is one."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import TYPE_CHECKING

import torch

from kdharness.harness.config.models import HOST_MEMORY, TeacherSpec
from kdharness.harness.config.precision import Precision
from kdharness.harness.config.training import DAEConfig, TrainConfig
from kdharness.harness.errors import AssetError, ModelError
from kdharness.harness.models.limits import limits_of, usable_pad
from kdharness.harness.models.lm_head import causal_model
from kdharness.harness.models.loading import load_model, pick_device, teacher_options
from kdharness.harness.models.resolve import local_folder
from kdharness.harness.models.unused import unused_note_of
from kdharness.harness.paths import Paths
from kdharness.trainers.data.dataset import Dataset, tokenizer_source
from kdharness.trainers.layers import cut_model
from kdharness.trainers.pairs.closeness import closeness, judged, sample_rows, top_tokens
from kdharness.trainers.pairs.models import ModelFacts
from kdharness.trainers.pairs.result import Checks, note, ok
from kdharness.trainers.pairs.roles import TeacherRole, teacher_roles
from kdharness.trainers.teachers.build import shared_ids
from kdharness.trainers.teachers.online import OnlineTeacher, Teacher, refuse_other_heads
from kdharness.trainers.teachers.placement import teacher_device

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

KL = "KL at step 0"


def check_weights(
    config: TrainConfig,
    tokenizer: PreTrainedTokenizerBase,
    data: Dataset,
    models: Mapping[str, ModelFacts],
    paths: Paths,
    checks: Checks,
    *,
    weights: bool,
) -> None:
    """Load student and teachers, one teacher at a time, and add what their first loss says.

    Args:
        config: a training config.
        tokenizer: the student's.
        data: the encoded training rows.
        models: the models that could be read, by role.
        paths: the home.
        checks: where results are added.
        weights: whether to load any; without, it is said that nothing was measured.
    """
    say_of_reference(config, checks)
    student: PreTrainedModel | None = None
    for role in teacher_roles(config):
        reason = "without weights" if not weights else _left_out(config, role, models, paths)
        if not reason and any(check.of in ("student", role.role) for check in checks.stops):
            reason = "a check above stops the run"
        if reason:
            checks.append(ok(KL, role.role, f"not measured: {reason}"))
            continue
        with measuring(role, checks):
            if student is None:
                student = _student(config, paths)
                _note_unused(student, "student", checks)
            width = models["student"].limits.vocabulary
            vocab = shared_ids(
                tokenizer,
                models["student"].source,
                width,
                role.model,
                paths,
                trust_remote_code=role.trusted,
            )
            teacher = _teacher(role, config, vocab, paths)
            _note_unused(teacher.model, role.role, checks)
            compare(config, role, student, teacher, tokenizer, data, checks)


def _note_unused(model: object, of: str, checks: Checks) -> None:
    """Add that a model's files have tensors that its config does not use."""
    if unused := unused_note_of(model):
        checks.append(note("weights", of, unused, "compare its config.json with its weights"))


@contextmanager
def measuring(role: TeacherRole, checks: Checks) -> Iterator[None]:
    """Add to the checks what ends the body: an error, or memory that ran out."""
    with checks.stopping(KL, role.role):
        try:
            yield
        except torch.OutOfMemoryError:
            checks.append(ok(KL, role.role, "not measured: out of memory"))


def say_of_reference(config: TrainConfig, checks: Checks) -> None:
    """Add that a default reference is the student itself."""
    if isinstance(config, DAEConfig) and config.reference is None:
        checks.append(ok(KL, "reference", "the student before training, so 0 at step 0"))


def _left_out(
    config: TrainConfig, role: TeacherRole, models: Mapping[str, ModelFacts], paths: Paths
) -> str:
    """Return why a teacher cannot be compared here; empty if it can."""
    if role.spec is not None and role.spec.served:
        return "a server runs the teacher"
    if config.student.experts_from:
        return "the student is made when the run starts, and measured then"
    for name, source in ((role.role, role.model), ("student", tokenizer_source(config))):
        if name not in models:
            return f"the {name} is not here"
        try:
            local_folder(source, paths, weights=True)
        except (ModelError, AssetError):
            return f"the weights of the {name} are not here"
    return ""


def _student(config: TrainConfig, paths: Paths) -> PreTrainedModel:
    """Load the student's start; one that is cut is cut in memory, and not kept."""
    spec = config.student
    model: PreTrainedModel = load_model(
        tokenizer_source(config),
        paths,
        device=config.trainer.device,
        trust_remote_code=spec.trust_remote_code,
        quantization=spec.quantization.model_dump() if spec.quantization else None,
    )
    if spec.keep_layers is not None:
        model = cut_model(model, spec.keep_layers)[0]
    return model


def _teacher(role: TeacherRole, config: TrainConfig, vocab: int, paths: Paths) -> OnlineTeacher:
    """Load a teacher where a run would: on its device, or in host memory if it is offloaded."""
    spec = role.spec or TeacherSpec(model=role.model)
    device = pick_device(teacher_device(spec, config.trainer.device))
    # Without a GPU there is nothing to copy an offloaded teacher to.
    offload = spec.offload and torch.device(device).type not in HOST_MEMORY
    model: PreTrainedModel = load_model(
        spec.model,
        paths,
        device="cpu" if offload else device,
        **teacher_options(spec, device),
    )
    refuse_other_heads(model, spec.model)
    return OnlineTeacher(model, vocab, runs_on=device if offload else None)


def compare(
    config: TrainConfig,
    role: TeacherRole,
    student: PreTrainedModel,
    teacher: Teacher,
    tokenizer: PreTrainedTokenizerBase,
    data: Dataset,
    checks: Checks,
    precision: Precision | None = None,
) -> None:
    """Run a teacher and the student on a few rows that it teaches, and add what that says.

    Args:
        config: a training config.
        role: the teacher's.
        student: the student.
        teacher: the teacher.
        tokenizer: the student's.
        data: the encoded training rows.
        checks: where results are added.
        precision: of the training that loaded the student.

    Raises:
        ModelError: the loss is not a number.
    """
    rows = sample_rows(data, role.kind)
    if not rows:
        checks.append(ok(KL, role.role, "not measured: it teaches no row"))
        return
    pad = usable_pad(tokenizer.pad_token_id, limits_of(causal_model(student)))
    seen = closeness(student, teacher, rows, pad, top_tokens(role.cache), precision)
    made = config.student.model is None
    start = isinstance(config, DAEConfig) and role.role == "reference"
    checks.extend(judged(role.role, seen, role.cache, made=made, start=start))
