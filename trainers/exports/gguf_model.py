"""Names, settings and weights of a model as llama.cpp reads them."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, cast

import numpy
import torch
from gguf import (
    MODEL_ARCH,
    MODEL_ARCH_NAMES,
    GGMLQuantizationType,
    LlamaFileType,
    get_tensor_name_map,
)
from gguf.quants import quant_shape_to_byte_shape, quantize

from kdharness.harness.errors import ModelError

if TYPE_CHECKING:
    from transformers import PreTrainedConfig, PreTrainedModel

FAMILIES = {
    "llama": MODEL_ARCH.LLAMA,
    "mistral": MODEL_ARCH.LLAMA,
    "qwen2": MODEL_ARCH.QWEN2,
    "qwen3": MODEL_ARCH.QWEN3,
}
"""transformers' model types, and llama.cpp's architectures."""
TYPES = {
    "f32": (GGMLQuantizationType.F32, LlamaFileType.ALL_F32),
    "f16": (GGMLQuantizationType.F16, LlamaFileType.MOSTLY_F16),
    "bf16": (GGMLQuantizationType.BF16, LlamaFileType.MOSTLY_BF16),
    "q8_0": (GGMLQuantizationType.Q8_0, LlamaFileType.MOSTLY_Q8_0),
}
LARGEST_F16 = 65504.0
BLOCK = 32
"""Weights that share one scale in q8_0."""
EMBEDDING, HEAD = "model.embed_tokens.weight", "lm_head.weight"
ROPE_FACTORS = "rope_freqs.weight"

Array = numpy.ndarray[tuple[int, ...], numpy.dtype[numpy.float32]]
Settings = dict[str, int | float | str | bool]


@dataclass(frozen=True)
class Tensor:
    """A weight under llama.cpp's name; `source` is its name in the model."""

    name: str
    source: str
    shape: tuple[int, ...]
    kind: GGMLQuantizationType

    @property
    def bytes(self) -> int:
        """Its size in the file."""
        return int(numpy.prod(quant_shape_to_byte_shape(self.shape, self.kind)))


def architecture(model: PreTrainedModel) -> MODEL_ARCH:
    """Return llama.cpp's architecture of a model.

    Raises:
        ModelError: another family, or code of its own.
    """
    kind = str(model.config.model_type)
    if kind not in FAMILIES or not type(model).__module__.startswith("transformers."):
        raise ModelError(
            f"no GGUF export for models of type {kind} (supported: {', '.join(FAMILIES)})",
            hint="kdharness export hf writes a folder for vLLM and transformers; llama.cpp's own "
            "convert_hf_to_gguf.py reads it",
        )
    return FAMILIES[kind]


def tensors(model: PreTrainedModel, kind: str) -> list[Tensor]:
    """Return the weights of a model in the order in which they are written.

    Raises:
        ModelError: a weight that llama.cpp has no place for.
    """
    config, state = model.config, model.state_dict()
    names = get_tensor_name_map(architecture(model), config.num_hidden_layers)
    tied = state[HEAD].data_ptr() == state[EMBEDDING].data_ptr()
    found = []
    for source, weight in state.items():
        if source == HEAD and tied:
            continue  # llama.cpp takes the embedding for a head that is missing
        if not weight.is_floating_point():
            raise ModelError(
                f"the weight {source} is quantised already ({str(weight.dtype)[6:]})",
                hint="export the model that it was quantised from",
            )
        name = names.get_name(source, (".weight", ".bias"))
        if name is None:
            raise ModelError(f"llama.cpp has no place for the weight {source}")
        found.append(Tensor(name, source, tuple(weight.shape), _stored_as(weight.shape, kind)))
    if _rope_kind(config) == "llama3":
        size = (_head_size(config) // 2,)
        found.append(Tensor(ROPE_FACTORS, "", size, GGMLQuantizationType.F32))
    return found


def _stored_as(shape: torch.Size, kind: str) -> GGMLQuantizationType:
    """Return how a weight is stored: norms and biases in fp32, rows of broken blocks in fp16."""
    if len(shape) == 1:
        return GGMLQuantizationType.F32
    wanted = TYPES[kind][0]
    broken = wanted is GGMLQuantizationType.Q8_0 and shape[-1] % BLOCK
    return GGMLQuantizationType.F16 if broken else wanted


def arrays(model: PreTrainedModel, listed: list[Tensor]) -> Iterator[numpy.ndarray]:
    """Yield the bytes of each weight.

    Raises:
        ModelError: a weight that is not finite, or too large for fp16.
    """
    state, config = model.state_dict(), model.config
    for tensor in listed:
        if tensor.name == ROPE_FACTORS:
            yield rope_factors(model)
            continue
        weight = state[tensor.source].detach().float().cpu()
        if architecture(model) is MODEL_ARCH.LLAMA:
            heads = {
                "q_proj": config.num_attention_heads,
                "k_proj": config.num_key_value_heads,
            }.get(tensor.source.split(".")[-2])
            weight = interleaved(weight, heads) if heads else weight
        values = cast(Array, weight.contiguous().numpy())
        _check(values, tensor)
        yield quantize(values, tensor.kind)


def interleaved(weight: torch.Tensor, heads: int) -> torch.Tensor:
    """Return rows in llama.cpp's order of rotated pairs: neighbours instead of halves of a head."""
    rows = weight.shape[0] // heads // 2
    pairs: torch.Tensor = weight.unflatten(0, (heads, 2, rows))
    return pairs.transpose(1, 2).reshape(weight.shape)


def _check(values: Array, tensor: Tensor) -> None:
    if not numpy.isfinite(values).all():
        raise ModelError(
            f"the weight {tensor.source} has values that are not finite",
            hint="was the training diverging? Export an earlier checkpoint",
        )
    largest = float(numpy.abs(values).max(initial=0.0))
    limit = {GGMLQuantizationType.F16: LARGEST_F16, GGMLQuantizationType.Q8_0: LARGEST_F16 * 127}
    if largest > limit.get(tensor.kind, numpy.inf):
        raise ModelError(
            f"the weight {tensor.source} has a value of {largest:.3g}, too large for "
            f"{tensor.kind.name.lower()}",
            hint="use --type bf16, which has the range of fp32",
        )


# ---------------------------------------------------------------- settings


def settings(model: PreTrainedModel) -> Settings:
    """Return the settings of a model, under llama.cpp's names.

    Raises:
        ModelError: an activation, or a kind of rotary embedding, that would be read otherwise.
    """
    config = model.config
    if config.hidden_act != "silu":
        raise ModelError(f"llama.cpp computes this family with silu, not {config.hidden_act}")
    name = MODEL_ARCH_NAMES[architecture(model)]
    size = _head_size(config)
    values: Settings = {
        "context_length": context_length(config),
        "embedding_length": config.hidden_size,
        "block_count": config.num_hidden_layers,
        "feed_forward_length": config.intermediate_size,
        "attention.head_count": config.num_attention_heads,
        "attention.head_count_kv": config.num_key_value_heads,
        "attention.key_length": size,
        "attention.value_length": size,
        "attention.layer_norm_rms_epsilon": float(config.rms_norm_eps),
        "rope.dimension_count": size,
        "rope.freq_base": float(_rope(config)["rope_theta"]),
        "vocab_size": config.vocab_size,
        **_rope_scaling(config, architecture(model)),
    }
    return {f"{name}.{key}": value for key, value in values.items()}


def context_length(config: PreTrainedConfig) -> int:
    """Return the tokens that llama.cpp reads as the model does: a sliding window ends them."""
    longest = int(config.max_position_embeddings)
    window = getattr(config, "sliding_window", None)
    if not getattr(config, "use_sliding_window", True):
        window = None
    return min(longest, int(window)) if window else longest


def _head_size(config: PreTrainedConfig) -> int:
    own = getattr(config, "head_dim", None)
    return int(own or config.hidden_size // config.num_attention_heads)


def _rope(config: PreTrainedConfig) -> Mapping[str, float]:
    return cast("Mapping[str, float]", config.rope_parameters)


def _rope_kind(config: PreTrainedConfig) -> str:
    return str(_rope(config).get("rope_type", "default"))


def _rope_scaling(config: PreTrainedConfig, arch: MODEL_ARCH) -> Settings:
    """Return the settings of a scaled rotary embedding."""
    rope, kind = _rope(config), _rope_kind(config)
    if rope.get("partial_rotary_factor", 1.0) != 1.0:
        raise ModelError("llama.cpp rotates whole heads of this family (partial_rotary_factor)")
    if kind == "default" or (kind == "llama3" and arch is MODEL_ARCH.LLAMA):
        return {}
    own = [
        key
        for key in ("attention_factor", "mscale", "mscale_all_dim", "truncate")
        if rope.get(key) is not None and rope.get(key) is not True
    ]
    if kind not in ("linear", "yarn") or own:
        raise ModelError(
            f"no GGUF export of rotary embeddings of type {kind}"
            + (f" with {', '.join(own)}" if own else "")
        )
    found: Settings = {"rope.scaling.type": kind, "rope.scaling.factor": float(rope["factor"])}
    if kind == "yarn":
        found["rope.scaling.original_context_length"] = int(
            rope.get("original_max_position_embeddings") or config.max_position_embeddings
        )
        for key in ("beta_fast", "beta_slow"):
            if rope.get(key):
                found[f"rope.scaling.yarn_{key}"] = float(rope[key])
    return found


def rope_factors(model: PreTrainedModel) -> Array:
    """Return by what each rotary frequency is divided, from the model's own frequencies."""
    config = model.config
    size = _head_size(config)
    exponents = torch.arange(0, size, 2, dtype=torch.float32) / size
    plain = 1.0 / torch.tensor(float(_rope(config)["rope_theta"])) ** exponents
    own = cast(torch.Tensor, model.get_submodule("model.rotary_emb").inv_freq).float().cpu()
    return cast(Array, (plain / own).numpy())
