"""Tiny models whose classes come with their files, as `trust_remote_code` is for."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from support.models import make_llama

CONFIG = """
from transformers import LlamaConfig


class OwnConfig(LlamaConfig):
    model_type = "own_llama"
"""
MODEL = """
from transformers import LlamaForCausalLM

from .configuration_own import OwnConfig


class OwnForCausalLM(LlamaForCausalLM):
    config_class = OwnConfig
"""
TOKENIZER = """
from transformers import PreTrainedTokenizerFast


class OwnTokenizer(PreTrainedTokenizerFast):
    pass
"""


def make_remote(folder: Path, **changes: Any) -> Path:
    """Write a tiny Llama whose config, model and tokenizer are classes of its own files."""
    make_llama(folder, **changes)
    (folder / "configuration_own.py").write_text(CONFIG, "utf-8")
    (folder / "modeling_own.py").write_text(MODEL, "utf-8")
    (folder / "tokenization_own.py").write_text(TOKENIZER, "utf-8")
    classes = {
        "model_type": "own_llama",
        "architectures": ["OwnForCausalLM"],
        "auto_map": {
            "AutoConfig": "configuration_own.OwnConfig",
            "AutoModelForCausalLM": "modeling_own.OwnForCausalLM",
        },
    }
    _update(folder / "config.json", classes)
    _update(
        folder / "tokenizer_config.json",
        {
            "tokenizer_class": "OwnTokenizer",
            "auto_map": {"AutoTokenizer": [None, "tokenization_own.OwnTokenizer"]},
        },
    )
    return folder


def _update(path: Path, values: dict[str, Any]) -> None:
    path.write_text(json.dumps({**json.loads(path.read_text("utf-8")), **values}), "utf-8")
