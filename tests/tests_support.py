"""Things some tests share that are not fixtures."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any


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


def start_command(*args: str, **options: Any) -> subprocess.Popen[str]:
    """`kdharness ARGS` in a process that hears Ctrl-C.

    A child of a shell's background job, of nohup and of some CI runners inherits that SIGINT is
    ignored, and Python then installs no handler for it.
    """

    def hear() -> None:
        signal.signal(signal.SIGINT, signal.SIG_DFL)
        signal.signal(signal.SIGTERM, signal.SIG_DFL)

    settings: dict[str, Any] = {
        "stdout": subprocess.PIPE,
        "stderr": subprocess.PIPE,
        "text": True,
        "preexec_fn": hear,
    }
    command = [sys.executable, "-m", "kdharness.harness.cli", *args]
    return subprocess.Popen(command, **{**settings, **options})
