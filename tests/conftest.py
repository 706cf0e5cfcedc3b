"""What every test shares: a quiet machine, and tiny models that need no network."""

from __future__ import annotations

import os

os.environ.setdefault("OMP_WAIT_POLICY", "passive")
os.environ["TOKENIZERS_PARALLELISM"] = "false"
os.environ["HF_HUB_OFFLINE"] = "1"
for name in ("OPENAI_API_KEY", "KDHARNESS_JUDGE_API_KEY", "KDHARNESS_JUDGE", "KDHARNESS_HOME"):
    os.environ.pop(name, None)

import json
from collections.abc import Callable
from importlib import resources
from pathlib import Path
from typing import Any

import pytest

from kdharness.harness.paths import Paths

WORDS = 400


def make_tokenizer(folder: Path, words: int = WORDS) -> Any:
    """A real byte-level BPE tokenizer with a ChatML template, trained on the shipped rows."""
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
    """A tiny random Llama with grouped-query attention."""
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


@pytest.fixture(scope="session")
def tiny_teacher(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a tiny teacher and its tokenizer."""
    folder = tmp_path_factory.mktemp("models") / "tiny-teacher"
    make_llama(folder, seed=1, tie_word_embeddings=True)
    return folder


@pytest.fixture
def paths(tmp_path: Path) -> Paths:
    """An empty home."""
    return Paths(tmp_path / "home")


@pytest.fixture
def write_jsonl(tmp_path: Path) -> Callable[[str, list[Any]], Path]:
    """Write rows as a JSONL file beside the home."""

    def write(name: str, rows: list[Any]) -> Path:
        path = tmp_path / name
        path.write_text("".join(json.dumps(row) + "\n" for row in rows), "utf-8")
        return path

    return write


@pytest.fixture
def kd(paths: Paths, capsys: pytest.CaptureFixture[str]) -> Callable[..., tuple[int, str, str]]:
    """The command line on an empty home: (exit code, stdout, stderr)."""
    from kdharness.harness import cli

    def call(*args: str) -> tuple[int, str, str]:
        capsys.readouterr()
        code = cli.run(["--home", str(paths.home), *args])
        captured = capsys.readouterr()
        return code, captured.out, captured.err

    return call
