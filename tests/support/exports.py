"""Small models and tokenizers of the families that are exported, and their files read back."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy
import torch
from gguf import GGUFReader
from gguf.quants import dequantize

from support.models import make_tokenizer

BASE: dict[str, Any] = {
    "vocab_size": 448,
    "hidden_size": 64,
    "intermediate_size": 96,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 512,
    "initializer_range": 0.2,
    "eos_token_id": 1,
    "pad_token_id": 2,
    "bos_token_id": None,
}
"""The tokenizer has 400 tokens: the rest of the rows is padding."""


def make_family(folder: Path, family: str, **changes: Any) -> Any:
    """Write a tiny random model of a family, with norms and biases that are not their defaults."""
    import transformers

    torch.manual_seed(0)
    config = getattr(transformers, f"{family}Config")(**{**BASE, **changes})
    model = getattr(transformers, f"{family}ForCausalLM")(config).eval()
    for name, weight in model.named_parameters():
        if weight.ndim == 1 or "norm" in name:
            weight.data += torch.randn_like(weight) * 0.2
    model.save_pretrained(folder)
    make_tokenizer(folder)
    return model


class Exported:
    """A GGUF file, read by the gguf package."""

    def __init__(self, folder: Path) -> None:
        (self.path,) = folder.glob("*.gguf")
        self.reader = GGUFReader(self.path)

    def value(self, key: str) -> Any:
        """Return an entry of the header; None if it is missing."""
        found = self.reader.get_field(key)
        return None if found is None else found.contents()

    def weights(self) -> dict[str, torch.Tensor]:
        """Return the weights as fp32, in torch's order of dimensions."""
        return {
            tensor.name: torch.from_numpy(
                numpy.array(dequantize(tensor.data, tensor.tensor_type))
            ).reshape([int(size) for size in reversed(tensor.shape)])
            for tensor in self.reader.tensors
        }

    def types(self) -> dict[str, str]:
        """Return how each weight is stored."""
        return {tensor.name: tensor.tensor_type.name for tensor in self.reader.tensors}


def rotated(weight: torch.Tensor, heads: int) -> torch.Tensor:
    """Return rows so that the two of each rotated pair are neighbours, one row at a time."""
    size = weight.shape[0] // heads
    rows = [
        head * size + half * (size // 2) + pair
        for head in range(heads)
        for pair in range(size // 2)
        for half in range(2)
    ]
    return weight[rows]


NAMES = {
    "model.embed_tokens": "token_embd",
    "model.norm": "output_norm",
    "lm_head": "output",
    "self_attn.q_proj": "attn_q",
    "self_attn.k_proj": "attn_k",
    "self_attn.v_proj": "attn_v",
    "self_attn.o_proj": "attn_output",
    "self_attn.q_norm": "attn_q_norm",
    "self_attn.k_norm": "attn_k_norm",
    "mlp.gate_proj": "ffn_gate",
    "mlp.up_proj": "ffn_up",
    "mlp.down_proj": "ffn_down",
    "input_layernorm": "attn_norm",
    "post_attention_layernorm": "ffn_norm",
}
"""The format's names, written down apart from the code under test."""


def expected_weights(model: Any, *, rotates: bool) -> dict[str, torch.Tensor]:
    """Return the weights that a GGUF file of a model must have."""
    config, found = model.config, {}
    heads = {"q_proj": config.num_attention_heads, "k_proj": config.num_key_value_heads}
    for name, weight in model.state_dict().items():
        if name == "lm_head.weight" and config.tie_word_embeddings:
            continue
        module, _, kind = name.rpartition(".")
        prefix = ""
        if module.startswith("model.layers."):
            _, _, number, module = module.split(".", 3)
            prefix = f"blk.{number}."
        key = module.rpartition(".")[2]
        value = rotated(weight, heads[key]) if rotates and key in heads else weight
        found[f"{prefix}{NAMES[module]}.{kind}"] = value.float()
    return found
