"""Which model a results file of lm-evaluation-harness is about."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from kdharness.harness.interop.rows import read_object, shown

CHANGING = (
    *("load_in_4bit", "load_in_8bit", "quantization", "autogptq", "gptqmodel", "gguf_file"),
    *("delta", "lora_local_path", "tokenizer", "add_bos_token", "prefix_token_id"),
    *("max_length", "max_model_len", "truncation"),
    *("enable_thinking", "think_end_token", "chat_template_args"),
)
"""Arguments that make another model of the same weights, or let it read something else."""
BY_DEFAULT = ("", "None", "null")
OFF = ("False", "false", "0")
"""Values that say nothing, but of `enable_thinking`, which many templates set by themselves."""


def model_name(raw: Mapping[str, Any]) -> object:
    """Return the name or path of the model that a file is about.

    `org/name@revision` is another model than `org/name`, and so is one whose weights were
    quantised or which read other tokens: `org/name+load_in_4bit=True`.

    Args:
        raw: the whole file.

    Raises:
        ValueError: its config or model arguments are of another kind.
    """
    arguments = _arguments(read_object(raw, "config").get("model_args") or {})
    # An adapter's base is not what was evaluated.
    named = (arguments.get("peft"), raw.get("model_name"), arguments.get("pretrained"))
    name = next((name for name in named if name), arguments.get("model"))
    if not isinstance(name, str):
        return name
    if folder := str(arguments.get("subfolder") or ""):
        name = f"{name}/{folder}"
    revision = str(arguments.get("revision") or "")
    if revision not in ("", "main") and "@" not in name:
        name = f"{name}@{revision}"
    for key in CHANGING:
        value = _text(arguments.get(key))
        if value not in BY_DEFAULT and (value not in OFF or key == "enable_thinking"):
            name = f"{name}+{key}={value}"
    return name


def _arguments(given: object) -> Mapping[str, Any]:
    """Return the model arguments, which are an object or `name=value,name=value`."""
    if isinstance(given, dict):
        return given
    if not isinstance(given, str):
        raise ValueError(f"model_args must be text or an object, not {shown(given)}")
    return dict(part.strip().partition("=")[::2] for part in given.split(","))


def _text(value: object) -> str:
    """Return an argument as it is written on a command line."""
    if value is None or isinstance(value, (str, bool, int, float)):
        return str(value)
    return json.dumps(value, sort_keys=True, ensure_ascii=False)
