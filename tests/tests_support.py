"""Things some tests share that are not fixtures."""

from __future__ import annotations

import json
from pathlib import Path


def make_llama_other(folder: Path) -> Path:
    """A tiny model whose tokenizer has two tokens swapped."""
    from conftest import make_llama

    make_llama(folder, seed=9)
    path = folder / "tokenizer.json"
    inner = json.loads(path.read_text("utf-8"))
    vocab = inner["model"]["vocab"]
    one, two = sorted(vocab, key=lambda token: vocab[token])[300:302]
    vocab[one], vocab[two] = vocab[two], vocab[one]
    path.write_text(json.dumps(inner), "utf-8")
    return folder
