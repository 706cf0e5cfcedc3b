"""Tiny models and tokenizers that need no network."""

from __future__ import annotations

import json
from importlib import resources
from pathlib import Path
from typing import Any

WORDS = 400


def make_tokenizer(folder: Path, words: int = WORDS) -> Any:
    """Write a byte-level BPE tokenizer with a ChatML template, trained on the shipped rows."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
    from transformers import PreTrainedTokenizerFast

    from kdharness.harness.chat.template import CHATML

    shop = resources.files("kdharness.data").joinpath("shop/train.jsonl").read_text("utf-8")
    texts = [turn["content"] for line in shop.splitlines() for turn in json.loads(line)["messages"]]
    inner = Tokenizer(models.BPE())
    inner.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    inner.decoder = decoders.ByteLevel()
    inner.train_from_iterator(
        texts,
        trainers.BpeTrainer(
            vocab_size=words,
            special_tokens=["<|im_start|>", "<|im_end|>", "<|pad|>"],
            initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
            show_progress=False,
        ),
    )
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=inner, eos_token="<|im_end|>", pad_token="<|pad|>"
    )
    tokenizer.chat_template = CHATML
    tokenizer.save_pretrained(folder)
    return tokenizer


def make_llama(folder: Path | None = None, *, seed: int = 0, **changes: Any) -> Any:
    """Write a tiny random Llama with grouped-query attention."""
    import torch
    from transformers import LlamaConfig, LlamaForCausalLM

    torch.manual_seed(seed)
    settings: dict[str, Any] = {
        "vocab_size": WORDS,
        "hidden_size": 32,
        "intermediate_size": 64,
        "num_hidden_layers": 4,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "max_position_embeddings": 512,
        "tie_word_embeddings": False,
        "initializer_range": 0.2,
        "eos_token_id": 1,
        "pad_token_id": 2,
        "bos_token_id": None,
        "attn_implementation": "sdpa",
    }
    model = LlamaForCausalLM(LlamaConfig(**{**settings, **changes})).eval()
    if folder is not None:
        model.save_pretrained(folder)
        make_tokenizer(folder)
    return model


def make_llama_other(folder: Path) -> Path:
    """Write a tiny model whose tokenizer has two tokens swapped."""
    make_llama(folder, seed=9)
    path = folder / "tokenizer.json"
    inner = json.loads(path.read_text("utf-8"))
    vocab = inner["model"]["vocab"]
    first, second = sorted(vocab, key=lambda token: vocab[token])[300:302]
    vocab[first], vocab[second] = vocab[second], vocab[first]
    path.write_text(json.dumps(inner), "utf-8")
    return folder
