"""Whether two models compute the same function of their weights, by their configs.

Weights of equal names and shapes can mean different things: another base of the rotary embedding,
another number of heads of the same total size, other experts per token.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from transformers import PreTrainedConfig

from kdharness.harness.errors import ModelError

# What is only a name, belongs to the training, or is said by the tokenizer and its checks. The
# fields of every config (`PreTrainedConfig`) are left out as well.
_NO_MATTER = frozenset(
    {
        "use_cache",
        "initializer_range",
        "initializer_factor",
        "output_router_logits",
        "router_aux_loss_coef",
        "router_jitter_noise",
        "pretraining_tp",
        "torch_dtype",
        "auto_map",
        "vocab_size",  # shapes are compared
    }
)
# Where a rotary embedding is as it was trained at every length, its longest row is no part of it.
_FIXED_ROTARY = ("default", "linear", "llama3")
_ROTARY = ("rope_parameters", "rope_scaling")


def check_configs(first: Any, other: Any, name: str, other_name: str) -> None:
    """Refuse models whose weights are used differently.

    Raises:
        ModelError: the field, and what it is in both models.
    """
    ours, theirs = _function(first), _function(other)
    ours = {"model_type": first.model_type, **ours}
    theirs = {"model_type": other.model_type, **theirs}
    for field in ours.keys() ^ theirs.keys():
        values = theirs if field in ours else ours
        if (implied := _implied(values, field)) is not None:
            values[field] = implied

    def plainest_first(field: str) -> tuple[bool, bool, bool, str]:
        both = ours.get(field), theirs.get(field)
        return field != "model_type", None in both, isinstance(both[0], list), field

    for field in sorted(ours.keys() | theirs.keys(), key=plainest_first):
        if ours.get(field) != theirs.get(field):
            raise ModelError(
                f"{field.replace('model_type', 'model type')} is {_shown(ours.get(field))} in "
                f"{name} and {_shown(theirs.get(field))} in {other_name}",
                hint="only models of the same architecture can be merged: train from the same "
                "start",
            )


def _implied(values: Mapping[str, object], field: str) -> int | None:
    """Return what a number of heads, or their size, is in a config that leaves it out."""
    parent, dot, name = field.rpartition(".")
    heads = values.get(f"{parent}{dot}num_attention_heads")
    width = values.get(f"{parent}{dot}hidden_size")
    if not isinstance(heads, int) or heads < 1:
        return None
    if name == "num_key_value_heads":
        return heads
    return width // heads if name == "head_dim" and isinstance(width, int) else None


def _shown(value: object) -> str:
    """Return a value for a message, without the rest of a long list."""
    text = str(value)
    return text if len(text) <= 80 else f"{text[:77]}…"


def _function(config: Any) -> dict[str, object]:
    """Return the fields of a config that the model's function depends on, by their paths."""
    values = config.to_dict()
    known = _defaults(type(config))
    if known:
        values = {key: value for key, value in values.items() if key in known}
    return dict(_leaves(values, ""))


def _defaults(kind: type[Any]) -> set[str]:
    """Return the fields that an architecture reads; empty where it has no default config.

    A file can hold more, such as the version of the program that wrote it.
    """
    try:
        return set(kind().to_dict())
    except Exception:  # an architecture's own code may raise anything
        return set()


_OF_ALL = frozenset(PreTrainedConfig().to_dict())


def _leaves(values: Mapping[str, Any], parent: str) -> Iterator[tuple[str, object]]:
    for key, value in sorted(values.items(), key=lambda entry: str(entry[0])):
        key = str(key)
        if key.endswith("_token_id") or "drop" in key:
            continue
        if key.startswith("_") or key in _NO_MATTER or key in _OF_ALL:
            continue
        if key == "max_position_embeddings" and _is_fixed(values):
            continue
        if key in ("max_window_layers", "sliding_window") and not values.get(
            "use_sliding_window", True
        ):
            continue
        if isinstance(value, Mapping):
            value = _with_rope_type(value) if key in _ROTARY else value
            yield from _leaves(value, f"{parent}{key}.")
        elif value is not None:
            yield f"{parent}{key}", value


def _is_fixed(values: Mapping[str, Any]) -> bool:
    rotary = values.get("rope_parameters") or values.get("rope_scaling") or {}
    kinds = rotary.values() if all(isinstance(v, Mapping) for v in rotary.values()) else [rotary]
    return all(_with_rope_type(kind).get("rope_type", "default") in _FIXED_ROTARY for kind in kinds)


def _with_rope_type(rotary: Mapping[str, Any]) -> dict[str, Any]:
    """Return a rotary embedding whose kind has its name of today: `rope_type` was `type`."""
    found = {
        name: _with_rope_type(value) if isinstance(value, Mapping) else value
        for name, value in rotary.items()
    }
    if isinstance(former := found.pop("type", None), str):
        found.setdefault("rope_type", former)
    return found
