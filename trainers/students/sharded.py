"""Loading a student under FSDP2 so that a process never holds more than its shard and a layer.

transformers reads shards by a plan of its own, but shards with another mixed-precision policy than
a training needs. So the student is built without weights, sharded as accelerate would shard it, and
given the tensors that transformers has read, which are not copied.
"""

from __future__ import annotations

import math
import os
from collections.abc import Mapping
from typing import Any

import torch
from torch.distributed.fsdp import MixedPrecisionPolicy, fully_shard
from torch.distributed.tensor import DTensor
from transformers import AutoModelForCausalLM
from transformers.distributed.configuration_utils import DistributedConfig

from kdharness.harness.config.precision import Precision
from kdharness.harness.models.lm_head import backbone
from kdharness.harness.models.loading import load_config_of, load_model, meta_model
from kdharness.harness.paths import Paths
from kdharness.trainers.precision import sharding_policy
from kdharness.trainers.teachers.build import has_plan


def loads_in_shards(
    folder: str, paths: Paths, processes: int, environ: Mapping[str, str] = os.environ
) -> bool:
    """Return whether every process can read its own shard of a student.

    It cannot where transformers has no plan for the architecture, where accelerate's config asks
    for another way of sharding, or where a process would have an empty part of some weight, by
    whose address accelerate finds it in the optimizer.
    """
    if processes < 2 or not has_plan(folder, paths):
        return False
    usual = {
        "FSDP_RESHARD_AFTER_FORWARD": "true",
        "FSDP_OFFLOAD_PARAMS": "false",
        "FSDP_ACTIVATION_CHECKPOINTING": "false",
        "FSDP_AUTO_WRAP_POLICY": "TRANSFORMER_BASED_WRAP",
    }
    if any(environ.get(name, value) != value for name, value in usual.items()):
        return False
    model: Any = meta_model(folder, paths)
    layers = getattr(backbone(model), "layers", None)
    if layers is None or not hasattr(backbone(model), "norm"):
        return False
    wrapped = environ.get("FSDP_TRANSFORMER_CLS_TO_WRAP", "")
    if wrapped and {wrapped} != {type(layer).__name__ for layer in layers}:
        return False
    rows = {value.shape[0] for value in model.parameters()}
    return all(math.ceil(count / processes) * (processes - 1) < count for count in rows)


def load_in_shards(
    folder: str, paths: Paths, precision: Precision, processes: int, **options: Any
) -> Any:
    """Load this process's shard of a student.

    Args:
        folder: the student's start.
        paths: the home.
        precision: of the training.
        processes: how many share the student.
        options: of `load_model`, such as its attention.
    """
    read = load_model(
        folder,
        paths,
        dtype=precision.weights,
        distributed_config=DistributedConfig(fsdp_size=processes),
        **options,
    )
    with torch.device("meta"):
        student: Any = AutoModelForCausalLM.from_config(
            load_config_of(folder, paths),
            dtype=getattr(torch, precision.weights),
            attn_implementation=read.config._attn_implementation,
        )
    student.tie_weights()
    _shard(student, sharding_policy(bf16=precision.autocast))
    _move(read, student)
    student.generation_config = read.generation_config
    return student.eval()


def _shard(student: Any, policy: MixedPrecisionPolicy) -> None:
    """Shard a student layer by layer, as accelerate does by default."""
    body, head = backbone(student), student.get_output_embeddings()
    embedding = student.get_input_embeddings()
    for layer in body.layers:
        fully_shard(layer, mp_policy=policy, reshard_after_forward=True)
    tail = [body.norm, embedding, head]
    if embedding.weight is not head.weight:
        fully_shard(embedding, mp_policy=policy, reshard_after_forward=True)
        tail = [body.norm, head]
    fully_shard(tail, mp_policy=policy, reshard_after_forward=False)
    fully_shard(student, mp_policy=policy)


def _move(read: Any, student: Any) -> None:
    """Give a sharded student without weights the tensors of a model with the same shards."""
    wanted = dict(student.named_parameters(remove_duplicate=False))
    values: dict[str, torch.Tensor] = {}
    for name, value in read.named_parameters(remove_duplicate=False):
        meta = wanted[name]
        values[name] = DTensor.from_local(
            value.to_local(),
            meta.device_mesh,
            meta.placements,
            run_check=False,
            shape=meta.shape,
            stride=meta.stride(),
        )
    for name, value in read.named_buffers():
        owner, _, attribute = name.rpartition(".")
        setattr(student.get_submodule(owner), attribute, value)
    persistent = {n: v for n, v in student.state_dict().items() if n not in wanted}
    student.load_state_dict({**values, **persistent}, assign=True)
    student.tie_weights()  # assigned one by one, a shared weight is no longer one
