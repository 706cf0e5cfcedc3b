"""Names that programs with transformers 4 read, beside those that transformers 5 writes.

Such a program does not know `rope_parameters`: it takes the base of the rotary embedding for its
default, without an error, and answers nonsense. Readers of the newer names ignore the older ones.
"""

from __future__ import annotations

from collections.abc import Mapping


def older_config(config: Mapping[str, object]) -> dict[str, object]:
    """Return the contents of `config.json` with the older names added where they are missing."""
    found = dict(config)
    rope = config.get("rope_parameters")
    if isinstance(rope, Mapping) and "rope_theta" in rope:
        found.setdefault("rope_theta", rope["rope_theta"])
        if rope.get("rope_type", "default") != "default":
            scaling = {key: value for key, value in rope.items() if key != "rope_theta"}
            found.setdefault("rope_scaling", scaling)
    if "dtype" in config:
        found.setdefault("torch_dtype", config["dtype"])
    return found


def older_tokenizer(config: Mapping[str, object]) -> dict[str, object]:
    """Return the contents of `tokenizer_config.json` with a class that both versions have."""
    found = dict(config)
    if found.get("tokenizer_class") == "TokenizersBackend":
        found["tokenizer_class"] = "PreTrainedTokenizerFast"
    for name in ("is_local", "local_files_only"):
        found.pop(name, None)
    return found
