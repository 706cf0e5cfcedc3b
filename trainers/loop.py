"""The training loop from config to checkpoint, shared by SFT, KD and DAE."""

from __future__ import annotations

import errno
import os
import shutil
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from transformers import set_seed

from kdharness.harness.config.trainer import TrainerSpec
from kdharness.harness.config.training import TrainConfig, runs_code_of
from kdharness.harness.config.unused import unused_settings
from kdharness.harness.errors import ConfigError, DataError, Interrupted, KDHarnessError, RunError
from kdharness.harness.models.limits import limits_of, usable_pad
from kdharness.harness.models.lm_head import causal_model
from kdharness.harness.models.loading import has_bf16, load_config_of, load_tokenizer, pick_device
from kdharness.harness.paths import Paths
from kdharness.harness.protocols import Job, MessageReporter, Outcome
from kdharness.harness.store import Store
from kdharness.harness.util.filesystem import exists, local_path
from kdharness.trainers.acceleration import (
    allow_tf32,
    check_acceleration,
    compile_layers,
)
from kdharness.trainers.arguments import allow_fsdp_on_cpu, training_arguments
from kdharness.trainers.attention_hook import check_packing, skip_masks
from kdharness.trainers.auto_precision import precision_by_memory
from kdharness.trainers.callbacks import HeldoutCallback
from kdharness.trainers.context import TrainContext
from kdharness.trainers.data.batches import Collator, plan_batches
from kdharness.trainers.data.dataset import (
    Dataset,
    load_chats,
    set_chat_template,
    tokenizer_of,
    tokenizer_source,
)
from kdharness.trainers.data.on_policy import settings_of
from kdharness.trainers.data.own_rows import with_own_rows
from kdharness.trainers.flops import BatchCosts
from kdharness.trainers.kernels import check_kernels, kernels_named, reference_parts
from kdharness.trainers.l2_start import check_engine
from kdharness.trainers.pairs.before import check_first_step, check_run
from kdharness.trainers.precision import check_setup, precision_note, stochastic_optimizer
from kdharness.trainers.preflight import hold
from kdharness.trainers.resuming import (
    begun_with,
    check_state,
    damaged_state,
    drawing_of,
    groups_of,
    keep_note,
    newest_checkpoint,
    refuse_changes,
    step_of,
)
from kdharness.trainers.rollouts import SampledRows, check_on_policy
from kdharness.trainers.saving import check_room, check_savable, save_whole
from kdharness.trainers.step import Objective
from kdharness.trainers.students.load import load_student
from kdharness.trainers.students.start import make_student
from kdharness.trainers.teachers.online import OnlineTeacher
from kdharness.trainers.teachers.placement import check_placement
from kdharness.trainers.teachers.planned import planned_facts
from kdharness.trainers.totals import stored_facts
from kdharness.trainers.tracking import Tracked, tracked
from kdharness.trainers.trainer import DistillTrainer
from kdharness.trainers.waiting import main_first

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase


def train(
    config: TrainConfig,
    job: Job,
    build: Callable[[TrainContext], tuple[Objective, Mapping[str, str]]],
    teacher: str | None = None,
) -> Outcome:
    """Train as specified by `config`.

    Args:
        config: a training config.
        job: the run's folder, its reporter and its place among the processes.
        build: returns the method's objective and its parents (role -> checkpoint id).
        teacher: the model that `student: {from: teacher}` refers to.

    Raises:
        Interrupted: stopped by request; a checkpoint was saved.
        RunError: out of memory (with what to lower), or a diverged loss.
    """
    spec: TrainerSpec = config.trainer
    if spec.threads:
        torch.set_num_threads(spec.threads)
    set_seed(config.seed)
    setting = _prepare(config, job, teacher)
    if job.is_main:
        _check_before(setting)
    checks = check_run(setting) if job.is_main and not job.resume else None
    method, parents = build(setting)
    method = _with_kernels(method, setting)
    if checks is not None:
        check_first_step(setting, method, checks)
    checkpoint = newest_checkpoint(job.folder) if job.resume else None
    begun = _check_begun(setting, parents, checkpoint)
    # Before any wrapper shards the models, which hides their full shapes.
    costs = BatchCosts(setting, method)
    trainer, watcher = _make_trainer(setting, method)
    if job.resume and job.is_main:
        _drop_later_points(job, checkpoint)
    sampled = trainer.sampled
    if sampled is not None:
        sampled.restart_after(step_of(checkpoint) if checkpoint else 0)
    if checkpoint is not None:
        check_state(checkpoint)
    if job.world > 1:
        engine = trainer.accelerator.distributed_type.value
        job.reporter.say(f"distributed: {engine}, {job.world} processes")
    job.reporter.stage("training", setting.plan.steps)
    if checkpoint is not None:
        # The bar continues where the run was; the message stores it at once.
        job.reporter.advance(step_of(checkpoint))
        job.reporter.say(f"resuming from {checkpoint.name}")
    try:
        trainer.train(resume_from_checkpoint=str(checkpoint) if checkpoint else None)
    except torch.OutOfMemoryError as error:
        raise out_of_memory(setting, error) from error
    except Exception as error:
        if isinstance(error, RuntimeError) and str(error).startswith("DataLoader worker"):
            raise RunError(
                f"a process that prepares micro-batches died: {error}",
                hint="it may have run out of memory: set trainer.workers: 0, and resume the run",
            ) from error
        # torch seeks to offsets read from the file; in a damaged one the system reports EINVAL.
        machine = isinstance(error, OSError) and error.errno not in (None, errno.EINVAL)
        if checkpoint is None or trainer.begun or machine or isinstance(error, KDHarnessError):
            raise
        raise damaged_state(checkpoint, str(error)) from error
    finally:
        if isinstance(setting.job.reporter, Tracked):
            setting.job.reporter.close()
    step = trainer.state.global_step
    if watcher.stopped and not watcher.ended_early and step < setting.plan.steps:
        raise Interrupted("stopped by request")
    if sampled is not None:
        sampled.end()
    folder = _save(trainer, setting)
    parents = {"student": setting.start.id, **parents}
    points: dict[str, tuple[Path, int, Mapping[str, float]]] = {}
    points[""] = (folder, step, watcher.final)
    best = watcher.best
    # If the last weights are the best, both are one checkpoint: RUN@best is RUN.
    if best.value is not None and best.step != step:
        points["best"] = (job.folder / "best", best.step, best.curves)
    facts = {"data": begun["train"], **({"best_step": best.step} if best.value is not None else {})}
    made = {
        name: Outcome(
            where, at, parents, {**stored_facts(setting, costs, at, sampled), **facts, **curves}
        )
        for name, (where, at, curves) in points.items()
    }
    last = made.pop("")
    return replace(last, others=made)


def _with_kernels(method: Objective, setting: TrainContext) -> Objective:
    """Return the objective with the config's kernels; say what they leave to the reference."""
    kernels = kernels_named(setting.config.trainer.kernels)
    teachers = {setting.kinds[number]: teacher for number, teacher in method.teachers.items()}
    weighted, anchored = method.mix.token_weights is not None, bool(method.anchors)
    if note := reference_parts(kernels, teachers, weighted=weighted, anchored=anchored):
        setting.job.reporter.say(note)
    return replace(method, kernels=kernels)


def _drop_later_points(job: Job, checkpoint: Path | None) -> None:
    """Delete the points of steps that will be trained again."""
    step = step_of(checkpoint) if checkpoint else -1
    if checkpoint is None:
        # Of a training that is not continued: perhaps with other rows.
        shutil.rmtree(job.folder / "best", ignore_errors=True)
    with Store(job.paths.store) as store:
        store.drop_points_after(job.run, step)


def _check_before(setting: TrainContext) -> None:
    """Detect before the first step what would prevent learning, or saving at the end."""
    job = setting.job
    if note := precision_note(setting.precision, setting.config.trainer, setting.student):
        job.reporter.say(note, kind="warning")
    dropped = check_savable(setting.student, setting.tokenizer, job.folder)
    if dropped:
        job.reporter.say(
            "the student's generation config is inconsistent and could not be saved as it is; "
            f"dropped from it: {', '.join(dropped)}",
            kind="warning",
        )
    check_room(setting.config, setting.student, setting.precision, job.folder)


def _check_begun(
    setting: TrainContext, parents: Mapping[str, str], checkpoint: Path | None
) -> dict[str, object]:
    """Compare a resumed run's inputs with those it started with, or record them at its start."""
    job, now = setting.job, begun_with(setting, parents)
    if checkpoint is None:
        if job.is_main:
            keep_note(job.folder, now)
    elif not refuse_changes(job.folder, now, checkpoint.name):
        job.reporter.say(
            "this run was started by an older version: cannot check that its data, precision, "
            "student and teachers are unchanged",
            kind="warning",
        )
    return now


def prepare_setting(
    config: TrainConfig, paths: Paths, teacher: str | None, say: Callable[[str], None]
) -> TrainContext:
    """Load the student, tokenizer, data and batch plan of a config, outside of any run."""
    job = Job(paths=paths, run="", folder=paths.home, reporter=MessageReporter(say))
    return _prepare(config, job, teacher)


def _prepare(config: TrainConfig, job: Job, teacher: str | None) -> TrainContext:
    spec = config.trainer
    job.reporter.stage("loading", 1)
    if job.world > 1 and ":" in spec.device:
        raise ConfigError(
            f"device: {spec.device} is one GPU, but this run has {job.world} processes, each with "
            "its own",
            where="trainer.device",
            hint="set device: cuda; CUDA_VISIBLE_DEVICES limits a run to some GPUs",
        )
    device = pick_device(spec.device)
    precision = spec.precision_on(lora=config.student.lora is not None, has_bf16=has_bf16(device))
    check_acceleration(config, device, precision, os.environ)
    check_on_policy(config)
    check_placement(config, device, job.world, os.environ)
    if job.run:  # to train, and not for a cache or a self-check
        check_setup(precision, spec, os.environ)
        check_kernels(spec.kernels, device)
        check_engine(spec.l2_start)
        for sentence in unused_settings(config):
            job.reporter.say(sentence, kind="warning")
    if spec.dtype != "auto":
        job.reporter.say(
            f"trainer.dtype is the former name of trainer.precision: this is {precision.name}",
            kind="warning",
        )
    with main_first(job, device):
        start = make_student(config.student, teacher, job.paths, reporter=job.reporter)
    code = runs_code_of(config, tokenizer_source(config))
    tokenizer = load_tokenizer(start.path, job.paths, trust_remote_code=code)
    fallback = tokenizer_of(config, teacher, job.paths) if teacher else None
    set_chat_template(tokenizer, config.data, fallback)
    config = with_own_rows(config, job, start, tokenizer, device)
    training, heldout = _rows(config, tokenizer, job)
    ordered = spec.model_copy(update={"length_groups": groups_of(job, spec)})
    drawing = drawing_of(job)
    plan = plan_batches(training.rows, config.data, ordered, config.seed, job.world, drawing)
    if job.run and precision.name == "mixed":
        facts = partial(planned_facts, config, training, plan, tokenizer, job.paths)
        precision = precision_by_memory(config, job, start.path, precision, facts)
        check_setup(precision, spec, os.environ)
    if job.run and spec.packing:
        code = config.student.trust_remote_code
        check_packing(load_config_of(start.path, job.paths, trust_remote_code=code), start.name)
    student = load_student(config, job, start, device, precision)
    limits = limits_of(causal_model(student))
    for rows in (training, heldout):
        if note := hold(rows, limits, tokenizer, f"the student ({start.name})", config.data):
            job.reporter.say(note, kind="warning")
    kinds = sorted({row.kind for row in training.rows})
    for report in training.reports:
        job.reporter.say(report.line())
        for text in report.warnings:
            job.reporter.say(text, kind="warning")
    job.reporter.say(f"{plan.steps} steps, {plan.tokens} tokens, {plan.padding_share:.1%} padding")
    return TrainContext(
        config,
        job,
        start,
        student,
        tokenizer,
        training,
        heldout,
        kinds,
        plan,
        device,
        precision,
        usable_pad(tokenizer.pad_token_id, limits),
    )


def _rows(
    config: TrainConfig, tokenizer: PreTrainedTokenizerBase, job: Job
) -> tuple[Dataset, Dataset]:
    """Load the rows of a config; a resumed run with a missing file gets a hint on how to fix it."""
    try:
        return load_chats(config.data, tokenizer, former=drawing_of(job) == 1)
    except DataError as error:
        sources = [*config.data.train, *config.data.heldout]
        if not job.resume or not any(
            str(local_path(source.path)) == error.where and not exists(local_path(source.path))
            for source in sources
        ):
            raise
        raise DataError(
            "this data file existed when the run started and is missing now",
            where=error.where,
            hint="restore it, or link to its new location: a run keeps the paths it started with",
        ) from error


def _make_trainer(
    setting: TrainContext, method: Objective
) -> tuple[DistillTrainer, HeldoutCallback]:
    config, job = setting.config, setting.job
    precision = setting.precision
    args = training_arguments(config, job.folder, setting.plan, setting.device, precision)
    optimizer = stochastic_optimizer(config.trainer, config.seed) if precision.stochastic else None
    if job.world > 1:
        allow_fsdp_on_cpu(args)
    if config.trainer.track and job.is_main:
        names, student = config.trainer.track, causal_model(setting.student)
        sent = tracked(job.reporter, names, job.run, job.folder, args, student)
        job = setting.job = replace(job, reporter=sent)
    watcher = HeldoutCallback(setting)
    models = [t.model for t in method.frozen if isinstance(t, OnlineTeacher)]
    for model in (causal_model(setting.student), *models):
        if not config.trainer.packing:
            skip_masks(model)  # the collator pads at the ends of rows alone
        if config.trainer.compile:
            compile_layers(model)
    if config.trainer.tf32:
        allow_tf32()
    collator = Collator(setting.pad_id, setting.kinds, packing=config.trainer.packing)
    on_policy = settings_of(config)
    trainer = DistillTrainer(
        model=setting.student,
        args=args,
        method=method,
        plan=setting.plan,
        dataset=setting.train,
        collator=collator,
        sampled=SampledRows(setting, on_policy, method.teachers, collator) if on_policy else None,
        max_loss=config.trainer.max_loss,
        keep=config.trainer.keep,
        l2_start=config.trainer.l2_start,
        reporter=job.reporter,
        rank=job.rank,
        world=job.world,
        processing_class=setting.tokenizer,
        callbacks=[watcher],
        optimizer_cls_and_kwargs=optimizer,
    )
    watcher.trainer = trainer
    return trainer, watcher


def _save(trainer: DistillTrainer, setting: TrainContext) -> Path:
    """Save the final weights to `final/` atomically, then delete step checkpoints."""
    job = setting.job
    folder = job.folder / "final"
    save_whole(trainer, setting, folder)
    if job.is_main and not setting.config.trainer.save_every:
        for path in job.folder.glob("checkpoint-*"):
            shutil.rmtree(path, ignore_errors=True)
    return folder


def out_of_memory(setting: TrainContext, error: Exception) -> KDHarnessError:
    """Return the error for a training that ran out of memory, with the setting to change."""
    spec = setting.config.trainer
    advice: Sequence[str]
    if spec.batch_size > 1:
        half = spec.batch_size // 2
        advice = [
            f"set trainer.batch_size: {half} and trainer.accumulation: "
            f"{spec.accumulation * spec.batch_size // half} (as many rows a step)"
        ]
    elif not spec.gradient_checkpointing:
        advice = ["set trainer.gradient_checkpointing: true"]
    else:
        half = setting.config.data.max_length // 2
        advice = [f"set data.max_length: {half}, or use student.lora"]
    return RunError(f"out of memory: {str(error).splitlines()[0]}", hint="; ".join(advice))
