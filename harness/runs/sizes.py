"""Dimensions of a model, as a plan needs them, counted on the model without weights."""

from __future__ import annotations

import math
import re
from dataclasses import dataclass
from typing import Any

from kdharness.harness.config.models import LoraSpec
from kdharness.harness.errors import ModelError
from kdharness.harness.models.loading import build_meta, load_config_of
from kdharness.harness.models.lora import (
    adapted_parameters,
    expert_shapes,
    missed_by_adapter,
    with_adapter,
)
from kdharness.harness.paths import Paths


@dataclass(frozen=True)
class Experts:
    """The experts of a mixture, whose weights are three-dimensional.

    Attributes:
        layers: how many layers have them; the others are dense.
        count: of one layer.
        active: how many a token meets.
        inner: the inner size of one.
        shared: the inner size of those that every token meets.
        exact: whether their outputs are weighted in fp32.
    """

    layers: int
    count: int
    active: int
    inner: int
    shared: int = 0
    exact: bool = False


@dataclass(frozen=True)
class Latent:
    """Multi-head latent attention: queries, keys and values made from narrow vectors.

    Attributes:
        query_rank: width of the vector that queries are made from; 0 if there is none.
        key_rank: width of the one that keys and values are made from.
        plain: width of a head's keys without a position.
        value: width of a head's values.
    """

    query_rank: int
    key_rank: int
    plain: int
    value: int


@dataclass(frozen=True)
class Adapter:
    """A LoRA on a mixture, as peft makes it.

    Attributes:
        parameters: number of its weights.
        linears: the linear layers that it is added to, as in `Size`.
        merged: base weights of one layer that every forward pass adds their update to: the result
            is as large as they are, and is kept for the backward pass.
        kinds: which of `gate_up_proj`, `down_proj` and the router's `weight` are among them.
        missed: what has no adapter, for a warning; empty if nothing was left out.
    """

    parameters: int
    linears: tuple[tuple[str, int, int], ...]
    merged: int
    kinds: frozenset[str]
    missed: str = ""


@dataclass(frozen=True)
class Size:
    """Dimensions of a model.

    Attributes:
        total: number of parameters.
        body: those a token meets, without embeddings and head.
        linear: those of the body's matrices, which autocast copies; experts are multiplied in the
            dtype of their weights.
        linears: (name, inputs, outputs) of the linear layers other than the output head, which
            adapters are added to and a quantiser replaces; experts kept as one three-dimensional
            tensor are none.
        tied: whether the output head is the embedding.
        normed: whether queries and keys have norms of their own.
        latent: of multi-head latent attention, where `head_size` is that of queries and keys.
        experts: of a mixture.
        adapter: of a mixture that was sized together with an adapter.
    """

    total: int
    body: int
    linear: int
    linears: tuple[tuple[str, int, int], ...]
    layers: int
    hidden: int
    intermediate: int
    heads: int
    key_heads: int
    head_size: int
    vocab: int
    tied: bool = False
    normed: bool = False
    latent: Latent | None = None
    experts: Experts | None = None
    adapter: Adapter | None = None

    @property
    def quantizable(self) -> int:
        """Number of weights that a quantiser replaces."""
        return sum(inputs * outputs for _, inputs, outputs in self.linears)

    @property
    def queries(self) -> int:
        """Width of a layer's queries."""
        return self.heads * self.head_size

    @property
    def keys(self) -> int:
        """Width of a layer's keys."""
        return self.key_heads * self.head_size

    @property
    def values(self) -> int:
        """Width of the tensor that holds a layer's values; latent ones share it with keys."""
        if self.latent is None:
            return self.keys
        return self.heads * (self.latent.plain + self.latent.value)

    @property
    def attended(self) -> int:
        """Width of what a layer's attention returns, before its output projection."""
        return self.queries if self.latent is None else self.heads * self.latent.value


def model_size(
    source: str,
    paths: Paths,
    keep_layers: int | None = None,
    lora: LoraSpec | None = None,
    *,
    trust_remote_code: bool = False,
) -> Size:
    """Compute the exact size of a model from its config alone, cut to `keep_layers` layers.

    Args:
        source: a model's name or folder.
        paths: the home.
        keep_layers: how many layers to keep; all of them by default.
        lora: an adapter to count; that of a mixture is counted on the model itself.
        trust_remote_code: whether the model's own code may run.

    Raises:
        ModelError: no such model, or an unsupported architecture.
        ConfigError: an adapter for modules that a mixture does not have.
    """
    config = load_config_of(source, paths, trust_remote_code=trust_remote_code)
    text = config.get_text_config()
    if keep_layers is not None:
        text.num_hidden_layers = keep_layers
        if isinstance(getattr(text, "layer_types", None), list):
            text.layer_types = text.layer_types[:keep_layers]
    model = build_meta(config, source, trust_remote_code=trust_remote_code)
    ends = model.get_input_embeddings(), model.get_output_embeddings()
    outside = {id(getattr(module, "weight", None)) for module in ends}
    active = active_experts(text)
    body = linear = 0
    for name, value in model.named_parameters():
        if id(value) not in outside:
            body += int(value.numel() * (active if ".experts." in name else 1.0))
            linear += value.numel() if value.dim() == 2 else 0
    total = sum(p.numel() for p in model.parameters())
    linears, experts = _linears(model), _experts(model, text)
    adapter = _adapter(model, source, lora) if experts is not None and lora else None
    heads, hidden = _shape(text, "num_attention_heads"), _shape(text, "hidden_size")
    latent = _latent(text)
    # Such configs call the part with a position a head.
    head_size = latent.plain + _shape(text, "qk_rope_head_dim") if latent else hidden // heads
    return Size(
        total=total,
        body=body,
        linear=linear,
        linears=linears,
        layers=_shape(text, "num_hidden_layers"),
        hidden=hidden,
        # GPT-2-like configs may leave the inner size unset: four times the hidden size.
        intermediate=_shape(text, "intermediate_size", "n_inner", "ffn_dim", default=4 * hidden),
        heads=heads,
        key_heads=heads if latent else _shape(text, "num_key_value_heads", default=heads),
        head_size=head_size if latent else _shape(text, "head_dim", default=head_size),
        vocab=_shape(text, "vocab_size"),
        tied=len({id(getattr(module, "weight", None)) for module in ends}) == 1,
        normed=any(name.endswith(".q_norm") for name, _ in model.named_modules()),
        latent=latent,
        experts=experts,
        adapter=adapter,
    )


def _latent(config: object) -> Latent | None:
    """Return the widths of multi-head latent attention; None for the usual one."""
    rank = _shape(config, "kv_lora_rank", default=0)
    if not rank:
        return None
    return Latent(
        _shape(config, "q_lora_rank", default=0),
        rank,
        _shape(config, "qk_nope_head_dim"),
        _shape(config, "v_head_dim"),
    )


def _experts(model: Any, config: object) -> Experts | None:
    """Return the experts of a model that keeps them in three-dimensional weights."""
    shapes = expert_shapes(model)
    if not shapes:
        return None
    layers = len({name.rpartition(".")[0] for name in shapes})
    count = max(shape[0] for shape in shapes.values())
    hidden = _shape(config, "hidden_size")
    inner = sum(math.prod(shape) for shape in shapes.values()) // (3 * layers * count * hidden)
    shared = [
        module.weight.shape[0]
        for name, module in model.named_modules()
        if "shared_expert" in name and name.endswith(".up_proj")
    ]
    active = _shape(config, "num_experts_per_tok", "moe_topk", default=count)
    # DeepSeek's routers keep their weights in fp32; others cast them.
    exact = any(name.endswith("e_score_correction_bias") for name, _ in model.named_buffers())
    return Experts(layers, count, active, inner, max(shared, default=0), exact)


def _adapter(model: Any, source: str, lora: LoraSpec) -> Adapter:
    """Add an adapter to a model without weights, and count it."""
    layers = {name.rpartition(".")[0] for name in expert_shapes(model)}
    adapted = with_adapter(model, lora, source)
    trained = sum(value.numel() for value in adapted.parameters() if value.requires_grad)
    weights = adapted_parameters(adapted)
    merged = sum(math.prod(shape) for shape in weights.values()) // len(layers)
    kinds = frozenset(name.rpartition(".")[2] for name in weights)
    linears = tuple(
        (name.removesuffix(".base_layer"), inputs, outputs)
        for name, inputs, outputs in _linears(adapted)
        if name.endswith(".base_layer")
    )
    return Adapter(trained, linears, merged, kinds, missed_by_adapter(adapted))


def _linears(model: Any) -> tuple[tuple[str, int, int], ...]:
    """Return (name, inputs, outputs) of the linear layers other than the output head."""
    head = model.get_output_embeddings()
    found = []
    for name, module in model.named_modules():
        if type(module).__name__ in ("Linear", "Conv1D") and module is not head:
            rows, columns = module.weight.shape
            found.append((name, int(columns), int(rows)))
    return tuple(found)


def _shape(config: object, *names: str, default: int | None = None) -> int:
    """Read an integer from a model's config, by the first of these names that is set.

    Raises:
        ModelError: none of them is set and there is no default.
    """
    for name in names:
        value = getattr(config, name, None)
        if isinstance(value, int) and not isinstance(value, bool) and value > 0:
            return value
    if default is None:
        raise ModelError(
            f"unknown shape of {getattr(config, 'model_type', 'model')} models: "
            f"the config has no {names[0]}",
            hint="plan supports decoder models with attention; training may still work",
        )
    return default


def active_experts(config: object) -> float:
    """Return the share of a mixture's experts active per token; 1 for a dense model."""
    every = ("num_local_experts", "num_experts", "n_routed_experts")
    total = _shape(config, *every, default=0)
    return _shape(config, "num_experts_per_tok", "moe_topk", default=total) / total if total else 1


def lora_parameters(size: Size, lora: LoraSpec) -> int:
    """Return the number of adapter weights, by peft's reading of `target_modules`.

    What peft adapts in a mixture depends on its architecture: there it is counted on the model
    itself, if it was sized together with the adapter.
    """
    if size.adapter is not None:
        return size.adapter.parameters
    return lora.r * sum(i + o for _, i, o in adapted_linears(size, lora))


def adapted_linears(size: Size, lora: LoraSpec) -> tuple[tuple[str, int, int], ...]:
    """Return the linear layers that get an adapter, as in `Size`."""
    if size.adapter is not None:
        return size.adapter.linears
    wanted = lora.target_modules

    def adapted(name: str) -> bool:
        if isinstance(wanted, str):
            return wanted == "all-linear" or re.fullmatch(wanted, name) is not None
        return any(name == end or name.endswith(f".{end}") for end in wanted)

    return tuple(linear for linear in size.linears if adapted(linear[0]))
