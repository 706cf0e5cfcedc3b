"""A config's teacher: its checkpoint, its frozen model, the vocabulary shared with the student."""

from __future__ import annotations

import time
from dataclasses import replace
from pathlib import Path
from typing import Any

from torch.distributed.fsdp import FSDPModule
from transformers.distributed.configuration_utils import DistributedConfig

from kdharness.harness.config.models import TeacherSpec
from kdharness.harness.config.trainer import DistillSpec
from kdharness.harness.errors import KDHarnessError
from kdharness.harness.models.adapters import is_adapter
from kdharness.harness.models.checkpoints import model_checkpoint
from kdharness.harness.models.limits import limits_of
from kdharness.harness.models.lm_head import causal_model
from kdharness.harness.models.loading import (
    load_config_of,
    load_model,
    load_tokenizer,
    teacher_options,
)
from kdharness.harness.models.resolve import local_folder
from kdharness.harness.models.unused import unused_note_of
from kdharness.harness.paths import Paths
from kdharness.harness.protocols import Reporter
from kdharness.harness.store import Store
from kdharness.harness.types import Checkpoint, Method, digest
from kdharness.trainers.acceleration import attention_options
from kdharness.trainers.attention_hook import check_packing
from kdharness.trainers.context import TrainContext
from kdharness.trainers.engines import fsdp2_processes
from kdharness.trainers.losses.fused import Mix
from kdharness.trainers.preflight import hold
from kdharness.trainers.teachers.online import check_tokenizers, refuse_other_heads
from kdharness.trainers.teachers.placement import teacher_device


def make_mix(spec: DistillSpec) -> Mix:
    """Return λ and the divergence in the form the fused loss takes."""
    return Mix(
        temperature=spec.temperature,
        divergence=spec.divergence,
        beta=spec.beta,
        kl_weight=spec.distill_weight,
        ce_weight=1.0 - spec.distill_weight,
        chunk=spec.chunk,
    )


def make_sampled_mix(spec: DistillSpec) -> Mix | None:
    """Return the loss of answers that the student samples; None without `on_policy`.

    The data has no such answers, so there is no next-token loss; λ stays on the divergence, whose
    weight is then the same on all rows.
    """
    if spec.on_policy is None:
        return None
    own = spec.on_policy.settle(spec.divergence, spec.beta)
    assert own.divergence is not None and own.beta is not None
    mix = replace(make_mix(spec), divergence=own.divergence, beta=own.beta)
    return replace(mix, ce_weight=0.0)


def parent_of(spec: TeacherSpec, paths: Paths, reporter: Reporter | None = None) -> Checkpoint:
    """Return the checkpoint that the lineage records as a teacher.

    A served teacher may have no weights here; it is then identified by its name.
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
                method=Method.MODEL.value,
                path="",
                created=time.time(),
            )
        )


def load_frozen(spec: TeacherSpec, setting: TrainContext, *, shard: bool = False) -> Any:
    """Load a teacher's frozen model on its device, or into host memory if it is offloaded.

    Args:
        spec: the config's teacher.
        setting: the training.
        shard: whether every process loads it at the same point, so that under FSDP2 each needs to
            load its own shard only. What transformers cannot load that way (an adapter, an
            architecture without a plan) is loaded on the CPU and sharded later, layer by layer.

    Raises:
        ConfigError: rows are packed, which its architecture does not support.
        DataError: the rows have a token or a length that it does not support.
    """
    paths, device = setting.job.paths, teacher_device(spec, setting.device)
    more = teacher_options(spec, device)
    if spec.offload:
        device = "cpu"
    processes = fsdp2_processes(setting.job.world)
    if shard and processes > 1 and not spec.quantization:
        if has_plan(spec.model, paths, trust_remote_code=spec.trust_remote_code):
            more["distributed_config"] = DistributedConfig(fsdp_size=processes)
        else:
            device = "cpu"
    model = load_model(
        spec.model,
        paths,
        device=device,
        **attention_options(setting.config.trainer.attn_implementation),
        **more,
    )
    if unused := unused_note_of(model):
        setting.job.reporter.say(unused, kind="warning")
    if setting.config.trainer.packing and setting.job.run:
        check_packing(model.config, spec.model)
    if spec.quantization:
        # What a quantiser does not know, such as experts in one tensor, keeps its size.
        size = sum(value.nbytes for value in model.parameters()) / 1e9
        setting.job.reporter.say(f"{spec.model} takes {size:.1f} GB quantised")
    if not isinstance(model, FSDPModule):
        refuse_other_heads(model, spec.model)
    limits = limits_of(model)
    hold(setting.train, limits, setting.tokenizer, spec.model, setting.config.data)
    return model


def runs_on(spec: TeacherSpec, setting: TrainContext) -> str | None:
    """Return the device that an offloaded teacher is copied to; None for every other teacher."""
    return teacher_device(spec, setting.device) if spec.offload else None


def has_plan(source: str, paths: Paths, *, trust_remote_code: bool = False) -> bool:
    """Return whether transformers can load a model in shards, and says where to cut it."""
    if is_adapter(local_folder(source, paths, weights=True)):
        return False
    config = load_config_of(source, paths, trust_remote_code=trust_remote_code).get_text_config()
    return bool(getattr(config, "base_model_fsdp_plan", None))


def shared_vocab(setting: TrainContext, teacher: TeacherSpec) -> int:
    """Return how many ids student and teacher share; 0 if their heads have the same width.

    Raises:
        ModelError: their tokenizers differ.
    """
    ours = causal_model(setting.student).config.get_text_config().vocab_size
    code = teacher.trust_remote_code
    paths, name = setting.job.paths, setting.start.name
    return shared_ids(setting.tokenizer, name, ours, teacher.model, paths, trust_remote_code=code)


def shared_ids(
    tokenizer: Any,
    student: str,
    width: int,
    teacher: str,
    paths: Paths,
    *,
    trust_remote_code: bool = False,
) -> int:
    """Do the same as `shared_vocab`, from a student's tokenizer, name and vocabulary size."""
    own = load_tokenizer(teacher, paths, trust_remote_code=trust_remote_code)
    shared = check_tokenizers(tokenizer, own, student, teacher)
    config = load_config_of(teacher, paths, trust_remote_code=trust_remote_code)
    theirs = config.get_text_config().vocab_size
    return 0 if width == theirs else min(width, theirs, shared)
