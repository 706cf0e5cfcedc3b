"""Names that programs with transformers 4 read, beside those that transformers 5 writes.

Such a program does not know `rope_parameters`: it takes the base of the rotary embedding for its
default, without an error, and answers nonsense. Readers of the newer names ignore the older ones.
"""

from __future__ import annotations

from collections.abc import Mapping

Rope = Mapping[str, object]
GLOBAL, LOCAL = "full_attention", "sliding_attention"
LOCAL_BASES = {
    "gemma3": "rope_local_base_freq",
    "gemma3_text": "rope_local_base_freq",
    "gemma3n": "rope_local_base_freq",
    "gemma3n_text": "rope_local_base_freq",
}
"""Families with two rotary bases: the older name of the base of layers with a window."""


def older_config(config: Mapping[str, object]) -> dict[str, object]:
    """Return the contents of `config.json` with the older names added where they are missing."""
    found = dict(config)
    text = config.get("text_config")
    if isinstance(text, Mapping):
        found["text_config"] = older_config(text)
    rope = config.get("rope_parameters")
    layers = _layers(config)
    if layers is not None:
        base = LOCAL_BASES[str(config.get("model_type"))]
        found.setdefault(base, layers[1]["rope_theta"])
        rope = layers[0]
    if isinstance(rope, Mapping) and "rope_theta" in rope:
        found.setdefault("rope_theta", rope["rope_theta"])
        if not _plain(rope):
            scaling = {key: value for key, value in rope.items() if key != "rope_theta"}
            found.setdefault("rope_scaling", scaling)
        if "partial_rotary_factor" in rope:
            found.setdefault("partial_rotary_factor", rope["partial_rotary_factor"])
    if "dtype" in config:
        found.setdefault("torch_dtype", config["dtype"])
    return found


def older_notes(config: Mapping[str, object]) -> list[str]:
    """Return a line on each part of `config.json` that has no older name."""
    notes: list[str] = []
    for part in (config, config.get("text_config")):
        if not isinstance(part, Mapping) or _layers(part) is not None:
            continue
        rope = part.get("rope_parameters")
        kinds = rope if isinstance(rope, Mapping) else {}
        named = sorted(str(kind) for kind, own in kinds.items() if isinstance(own, Mapping))
        if named:
            notes.append(
                "programs with transformers 4 cannot read this model's rotary settings, which "
                f"differ between layers ({', '.join(named)}): serve it with transformers 5"
            )
    return notes


def _layers(config: Mapping[str, object]) -> tuple[Rope, Rope] | None:
    """Return a family's rotary settings of global and of local layers, if the older names do."""
    rope = config.get("rope_parameters")
    if config.get("model_type") not in LOCAL_BASES or not isinstance(rope, Mapping):
        return None
    full, local = rope.get(GLOBAL), rope.get(LOCAL)
    if not isinstance(full, Mapping) or not isinstance(local, Mapping) or len(rope) > 2:
        return None
    # The older names of local layers have no more than a base.
    simple = _plain(local) and set(local) <= {"rope_theta", "rope_type"}
    return (full, local) if simple and "rope_theta" in full and "rope_theta" in local else None


def _plain(rope: Rope) -> bool:
    return rope.get("rope_type", "default") == "default"


def older_tokenizer(config: Mapping[str, object]) -> dict[str, object]:
    """Return the contents of `tokenizer_config.json` as both versions read them.

    transformers 4 takes `extra_special_tokens` for a mapping of names to tokens, and has another
    name for a list of them.
    """
    found = dict(config)
    if found.get("tokenizer_class") == "TokenizersBackend":
        found["tokenizer_class"] = "PreTrainedTokenizerFast"
    for name in ("is_local", "local_files_only"):
        found.pop(name, None)
    extra = found.get("extra_special_tokens")
    if isinstance(extra, list):
        before = found.get("additional_special_tokens")
        listed = before if isinstance(before, list) else []
        found["additional_special_tokens"] = [*listed, *(t for t in extra if t not in listed)]
        del found["extra_special_tokens"]
    named = found.get("model_specific_special_tokens")
    if isinstance(named, Mapping):
        found.setdefault("extra_special_tokens", dict(named))
    return found
