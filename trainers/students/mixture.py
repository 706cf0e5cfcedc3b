"""A mixture-of-experts student from dense checkpoints (the paper's 2x7B).

Attention, norms, embeddings and head come from the first model; each expert is the MLP of one
model. A single model is upcycled into two equal experts: with normalised top-2 weights it produces
the dense model's exact outputs before training, whatever the router does.
"""

from __future__ import annotations

from typing import Any

import torch
from transformers import MixtralConfig, MixtralForCausalLM

from kdharness.harness.config.models import StudentSpec
from kdharness.harness.errors import ConfigError, ModelError
from kdharness.harness.models.checkpoints import add_made, model_checkpoint
from kdharness.harness.models.loading import load_model, load_tokenizer
from kdharness.harness.paths import Paths
from kdharness.harness.types import Checkpoint, Method, digest
from kdharness.trainers.students.folder import save_folder

FAMILIES = ("llama", "mistral")
ROUTER_AUX_WEIGHT = 0.02
"""Mixtral's own load-balancing weight (its released config)."""


def mix_models(models: list[Any], seed: int = 0) -> Any:
    """Return a Mixtral whose experts are the MLPs of the dense models.

    Raises:
        ModelError: a family other than Llama's and Mistral's, biases, or shapes that differ.
    """
    if len(models) == 1:
        models = [models[0], models[0]]
    first = models[0].config
    for model in models:
        _check(model.config, first)
    settings = {
        name: getattr(first, name)
        for name in (
            "vocab_size",
            "hidden_size",
            "intermediate_size",
            "num_hidden_layers",
            "num_attention_heads",
            "num_key_value_heads",
            "max_position_embeddings",
            "rms_norm_eps",
            "tie_word_embeddings",
            "bos_token_id",
            "eos_token_id",
            "pad_token_id",
            "hidden_act",
            "rope_parameters",
        )
    }
    config = MixtralConfig(
        **settings,
        head_dim=getattr(first, "head_dim", None),
        num_local_experts=len(models),
        num_experts_per_tok=2,
        sliding_window=getattr(first, "sliding_window", None),
        output_router_logits=True,
        router_aux_loss_coef=ROUTER_AUX_WEIGHT,
    )
    torch.manual_seed(seed)
    mixture = MixtralForCausalLM(config).to(next(models[0].parameters()).dtype)
    state = models[0].state_dict()
    shared = {name: value for name, value in state.items() if ".mlp." not in name}
    missing, unexpected = mixture.load_state_dict(shared, strict=False)
    if unexpected or any(".mlp." not in name for name in missing):
        raise ModelError(f"cannot build experts from this model: {[*unexpected, *missing][:3]}")
    with torch.no_grad():
        for index, layer in enumerate(mixture.model.layers):
            experts = layer.mlp.experts
            for number, model in enumerate(models):
                mlp = model.model.layers[index].mlp
                gate_up = torch.cat([mlp.gate_proj.weight, mlp.up_proj.weight])
                experts.gate_up_proj[number].copy_(gate_up)
                experts.down_proj[number].copy_(mlp.down_proj.weight)
    return mixture.eval()


def _check(config: Any, first: Any) -> None:
    if config.model_type not in FAMILIES:
        raise ModelError(
            f"experts are made from {' and '.join(FAMILIES)} models, not {config.model_type}"
        )
    if getattr(config, "attention_bias", False) or getattr(config, "mlp_bias", False):
        raise ModelError("experts cannot be made from models with biases")
    for name in (
        "hidden_size",
        "intermediate_size",
        "num_hidden_layers",
        "num_attention_heads",
        "num_key_value_heads",
        "vocab_size",
    ):
        if getattr(config, name) != getattr(first, name):
            raise ModelError(
                f"the models differ in {name}: {getattr(first, name)} and {getattr(config, name)}",
                hint="experts need dense models of one architecture",
            )


def make_mixture(spec: StudentSpec, paths: Paths) -> Checkpoint:
    """Return the mixture-of-experts checkpoint of a config, made and stored once."""
    sources = spec.experts_from or []
    if not sources:
        raise ConfigError("give at least one dense model", where="student.experts_from")
    parents = [model_checkpoint(paths, source) for source in sources]
    target = paths.models / f"experts-{digest([parent.id for parent in parents])[:8]}"
    if not (target / "config.json").exists():
        models = [
            load_model(source, paths, device="cpu", trust_remote_code=spec.trust_remote_code)
            for source in sources
        ]
        save_folder(
            mix_models(models),
            load_tokenizer(sources[0], paths, trust_remote_code=spec.trust_remote_code),
            target,
            {"experts_from": [parent.name for parent in parents]},
        )
    count = max(2, len(parents))
    return add_made(
        paths,
        target,
        name=f"{parents[0].name}-{count}x",
        method=Method.CUT.value,
        parents={f"expert {i}": parent.id for i, parent in enumerate(parents)},
        info={"experts": count},
    )
