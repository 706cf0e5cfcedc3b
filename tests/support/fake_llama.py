"""A stand-in for the llama_cpp package: bytes as tokens, and a reply that was written before.

Its `Llama` says `REPLY` after any prompt, then the end of the turn. With it the engine is tested
where llama-cpp-python, which has to be compiled, is not installed.
"""

from __future__ import annotations

import ctypes
from collections.abc import Callable, Sequence
from importlib.machinery import ModuleSpec
from types import ModuleType, SimpleNamespace
from typing import Any

import numpy

END = 256
SIZE = 257


class FakeLlama:
    """What the engine uses of `llama_cpp.Llama`."""

    made: list[FakeLlama] = []
    reply = "Fine. Rating: [[7]]"
    template = "{{ messages }}"
    trained_on = 600
    broken: Callable[[FakeLlama], None] | None = None
    log: Callable[[int, bytes, object], None] = staticmethod(lambda *_: None)
    complaint = ""

    def __init__(self, path: str, *, n_ctx: int, **options: Any) -> None:
        if self.complaint:
            self.log(2, b"loading", None)
            self.log(4, self.complaint.encode(), None)
            raise ValueError(f"Failed to load model from file: {path}")
        self.size, self.options = n_ctx, options
        self.metadata = {"tokenizer.chat_template": self.template} if self.template else {}
        self.model = self.ctx = self
        self.tokens: list[int] = []
        self.closed = False
        self.said = 0
        FakeLlama.made.append(self)

    def n_ctx(self) -> int:
        return self.size

    def n_vocab(self) -> int:
        return SIZE

    def token_eos(self) -> int:
        return END

    def token_bos(self) -> int:
        return -1

    def tokenize(self, text: bytes, *, add_bos: bool, special: bool) -> list[int]:
        assert not add_bos
        return list(text)

    def detokenize(self, tokens: Sequence[int], *, special: bool = False) -> bytes:
        return bytes(token for token in tokens if token < END) + b"<end>" * (
            special and END in tokens
        )

    @property
    def n_tokens(self) -> int:
        return len(self.tokens)

    @n_tokens.setter
    def n_tokens(self, count: int) -> None:
        del self.tokens[count:]
        self.said = 0

    def reset(self) -> None:
        self.tokens, self.said = [], 0

    def eval(self, tokens: Sequence[int]) -> None:
        self.said = self.said + len(tokens) if len(tokens) < 3 and self.tokens else 0
        self.tokens += tokens
        if len(self.tokens) > self.size:
            raise RuntimeError("llama_decode returned 1")
        if FakeLlama.broken is not None:
            FakeLlama.broken(self)

    def logits(self) -> numpy.ndarray[Any, Any]:
        scores = numpy.zeros(SIZE, dtype=numpy.float32)
        text = self.reply.encode()
        scores[text[self.said] if self.said < len(text) else END] = 20.0
        return scores

    def close(self) -> None:
        self.closed = True


def _pointer(llama: FakeLlama, _: int) -> Any:
    scores = llama.logits()
    llama.kept = scores  # type: ignore[attr-defined]
    return scores.ctypes.data_as(ctypes.POINTER(ctypes.c_float))


def _formatter(*, template: str, eos_token: str, bos_token: str) -> Any:
    if "{%" in template:
        raise ValueError("unexpected end of template")

    def render(*, messages: list[dict[str, str]]) -> Any:
        if "no system" in template and any(m["role"] == "system" for m in messages):
            raise ValueError("System role not supported")
        return SimpleNamespace(prompt="".join(m["content"] for m in messages) + "\nA:")

    return render


def fake_package(*, gpu: bool = False) -> ModuleType:
    """Return a fresh stand-in for `sys.modules["llama_cpp"]`."""
    FakeLlama.made = []
    package: Any = ModuleType("llama_cpp")
    package.__spec__ = ModuleSpec("llama_cpp", None)

    def set_log(callback: Callable[[int, bytes, object], None], _: object) -> None:
        FakeLlama.log = staticmethod(callback)  # type: ignore[assignment]

    package.Llama = FakeLlama
    package.llama_log_callback = lambda function: function
    package.llama_log_set = set_log
    package.llama_model_n_ctx_train = lambda llama: llama.trained_on
    package.llama_model_get_vocab = lambda llama: llama
    package.llama_vocab_is_eog = lambda _, token: token == END
    package.llama_get_logits_ith = _pointer
    package.llama_supports_gpu_offload = lambda: gpu
    package.LLAMA_SPLIT_MODE_NONE = 0
    package.llama_chat_format = SimpleNamespace(Jinja2ChatFormatter=_formatter)
    found: ModuleType = package
    return found
