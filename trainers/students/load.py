"""Loading the student of a training, with its adapter."""

from __future__ import annotations

from typing import TYPE_CHECKING

from kdharness.harness.config.precision import Precision
from kdharness.harness.config.training import TrainConfig
from kdharness.harness.models.loading import load_model
from kdharness.harness.models.lora import missed_by_adapter, with_adapter
from kdharness.harness.models.unused import unused_note_of
from kdharness.harness.protocols import Job
from kdharness.harness.types import Checkpoint
from kdharness.trainers.acceleration import attention_options
from kdharness.trainers.engines import fsdp2_processes
from kdharness.trainers.students.sharded import load_in_shards, loads_in_shards
from kdharness.trainers.teachers.online import refuse_other_heads

if TYPE_CHECKING:
    from transformers import PreTrainedModel


def load_student(
    config: TrainConfig, job: Job, start: Checkpoint, device: str, precision: Precision
) -> PreTrainedModel:
    """Load the student's start, and add its adapter.

    Under FSDP2 every process reads its own shard where it can (`loads_in_shards`).

    Args:
        config: a training config.
        job: the run, for warnings.
        start: the checkpoint that the student starts from.
        device: where it is trained.
        precision: of the training.
    """
    spec, quantization = config.student, config.student.quantization
    processes, attention = fsdp2_processes(job.world), config.trainer.attn_implementation
    plain = not (spec.lora or spec.trust_remote_code)
    if plain and loads_in_shards(start.path, job.paths, processes):
        sharded: PreTrainedModel = load_in_shards(
            start.path,
            job.paths,
            precision,
            processes,
            device=device,
            **attention_options(attention),
        )
        return sharded
    student: PreTrainedModel = load_model(
        start.path,
        job.paths,
        dtype=precision.weights,
        # Under FSDP2 it is moved to the device layer by layer, as it is sharded.
        device="cpu" if processes > 1 else device,
        trust_remote_code=spec.trust_remote_code,
        quantization=quantization.model_dump() if quantization else None,
        **attention_options(attention),
    )
    refuse_other_heads(student, start.name)
    if unused := unused_note_of(student):
        job.reporter.say(unused, kind="warning")
    if spec.lora:
        student = with_adapter(student, spec.lora, start.path, fp32=precision.trained == "float32")
        if note := missed_by_adapter(student):
            job.reporter.say(note, kind="warning")
    return student
