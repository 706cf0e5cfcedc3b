"""One GGUF file loaded by llama.cpp: its template, its tokens and its logits."""

from __future__ import annotations

import atexit
from collections.abc import Sequence
from functools import cached_property
from typing import Any

import numpy
import torch

from kdharness.harness.chat.rendering import as_turn, on_a_fixed_day
from kdharness.harness.chat.row_fields import left_out
from kdharness.harness.errors import DataError, ModelError
from kdharness.harness.models.llama_library import last_errors, llama_library
from kdharness.harness.types import GenerationRequest
from kdharness.judges.engines.llama_devices import placed
from kdharness.judges.scoring.expected import begins_number

CHUNK = 512
"""Prompt tokens read at once, between which stop requests are noticed."""


class LlamaModel:
    """A loaded GGUF file."""

    def __init__(
        self, path: str, name: str, device: str, tokens: int, *, every: bool = False
    ) -> None:
        """Load the file with a context of `tokens`; `every` keeps the logits at every position.

        Raises:
            ModelError: llama.cpp cannot load it, with its own words.
        """
        self.api = llama_library()
        self.name = name
        options = placed(self.api, device)
        last_errors.clear()
        try:
            self.llama = self.api.Llama(
                path,
                n_ctx=tokens,
                n_batch=CHUNK,
                n_threads=torch.get_num_threads(),
                n_threads_batch=torch.get_num_threads(),
                verbose=False,
                **({"logits_all": True} if every else {}),
                **options,
            )
        except (ValueError, RuntimeError, MemoryError, AssertionError) as error:
            raise ModelError(
                f"llama.cpp cannot load it: {'; '.join(last_errors) or error}",
                where=path,
                hint=f"is there memory for it and a context of {tokens} tokens? Does this "
                "llama.cpp know its architecture? pip install --upgrade llama-cpp-python",
            ) from error
        # At the interpreter's end llama_cpp's own clean-up finds its functions gone.
        atexit.register(self.llama.close)
        try:
            self.room = self.llama.n_ctx()
            self.trained_on = int(self.api.llama_model_n_ctx_train(self.llama.model))
            self.vocabulary = self.api.llama_model_get_vocab(self.llama.model)
            self._template = self._own_template(path)
        except BaseException:
            self.close()
            raise

    def _own_template(self, path: str) -> Any:
        """Return the file's own chat template, compiled."""
        source = self.llama.metadata.get("tokenizer.chat_template")
        if not source:
            raise ModelError(
                "this GGUF file has no chat template (tokenizer.chat_template)",
                where=path,
                hint="use the file of a chat model",
            )
        formatter = self.api.llama_chat_format.Jinja2ChatFormatter
        try:
            return formatter(
                template=on_a_fixed_day(source),
                eos_token=self._word(self.llama.token_eos()),
                bos_token=self._word(self.llama.token_bos()),
            )
        except Exception as error:  # jinja has its own errors
            raise ModelError(f"its chat template is damaged: {error}", where=path) from error

    def _word(self, token: int) -> str:
        """Return the text of a special token; empty for none."""
        return self.text([token], special=True) if token >= 0 else ""

    def prompt(self, request: GenerationRequest) -> list[int]:
        """Return the tokens of a chat with an assistant turn opened at its end.

        Raises:
            DataError: the template refuses these turns.
        """
        try:
            text = self._template(messages=[as_turn(m) for m in request.messages]).prompt
        except Exception as error:  # templates may raise anything
            raise DataError(f"the chat template of {self.name} rejects a chat: {error}") from error
        if role := left_out(request.messages, text):
            raise DataError(f"the chat template of {self.name} does not render the {role} turn")
        data = (str(text) + request.opening).encode("utf-8", "replace")
        return list(self.llama.tokenize(data, add_bos=False, special=True))

    def spelt(self, choices: Sequence[str]) -> dict[str, list[int]]:
        """Return the tokens of each choice."""
        return {
            choice: list(self.llama.tokenize(choice.encode(), add_bos=False, special=False))
            for choice in choices
        }

    def text(self, tokens: list[int], *, special: bool = False) -> str:
        """Return the text of tokens; a character that was cut in two becomes U+FFFD."""
        raw: bytes = self.llama.detokenize(tokens, special=special) if tokens else b""
        return raw.decode("utf-8", "replace")

    def ends(self, token: int) -> bool:
        """Return whether a token ends a turn: the end of the text, of the turn, or their like."""
        return bool(self.api.llama_vocab_is_eog(self.vocabulary, token))

    @cached_property
    def numerals(self) -> dict[int, str]:
        """The tokens whose text begins with a digit, after blanks if any."""
        texts = {token: self.text([token]) for token in range(self.llama.n_vocab())}
        return {token: text for token, text in texts.items() if begins_number(text)}

    def forget(self) -> None:
        """Forget everything read."""
        self.llama.reset()

    def forget_after(self, tokens: int) -> bool:
        """Forget what was read after the first tokens, if a model of this kind can."""
        kinds = ("llama_model_is_recurrent", "llama_model_is_hybrid")
        if any(is_a(self.llama.model) for kind in kinds if (is_a := getattr(self.api, kind, None))):
            return False
        # The next tokens are read in the place of those after it.
        self.llama.n_tokens = tokens
        return True

    def read(self, tokens: list[int]) -> None:
        """Read further tokens; raise RuntimeError if llama.cpp cannot."""
        self.llama.eval(tokens)

    def all_logits(self, tokens: list[int]) -> torch.Tensor:
        """Return the logits at every position of a text, fp32 [n, tokens]; needs `every`."""
        self.forget()
        self.read(tokens)
        return torch.from_numpy(self.llama.scores[: len(tokens)].copy())

    def logits(self) -> torch.Tensor:
        """Return the logits after the last token read, fp32 [1, tokens]."""
        found = self.api.llama_get_logits_ith(self.llama.ctx, -1)
        view = numpy.ctypeslib.as_array(found, shape=(self.llama.n_vocab(),))
        return torch.from_numpy(view.copy())[None]

    def close(self) -> None:
        """Release the memory."""
        atexit.unregister(self.llama.close)
        self.llama.close()
