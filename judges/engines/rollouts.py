"""A model in training as an engine for tokens: answers that it will be trained on.

The generator is the one that evaluates. A draw depends on the row's seed, its position and its
logits alone, so that a resumed run samples what the uninterrupted one would have sampled.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import torch

from kdharness.harness.errors import RunError
from kdharness.harness.paths import Paths
from kdharness.harness.protocols import TokenPrompt, TokenReply
from kdharness.harness.types import Finish, GenerationRequest, Reply
from kdharness.judges.engines.in_training import InTraining
from kdharness.judges.engines.local import _Row

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase


class LocalRollouts(InTraining):
    """Samples continuations of token ids; the whole distribution at a temperature, uncut."""

    def __init__(
        self,
        model: PreTrainedModel,
        tokenizer: PreTrainedTokenizerBase,
        paths: Paths,
        *,
        batch_size: int,
        temperature: float,
        vocabulary: int,
    ) -> None:
        """Create the engine.

        Args:
            model: a causal LM without wrappers, in eval mode whenever it generates.
            tokenizer: with the chat template of its training rows.
            paths: the home.
            batch_size: prompts that are continued together.
            temperature: below 1e-4 the likeliest token is taken.
            vocabulary: only ids below are sampled: those that the teachers know too.
        """
        super().__init__(model, tokenizer, paths, batch_size=batch_size)
        self.temperature, self.vocabulary = temperature, vocabulary
        self._replies: dict[int, TokenReply] = {}

    def check(self) -> str:
        """Do nothing: the model is loaded, and its cache was checked."""
        return ""

    def continuations(self, prompts: Sequence[TokenPrompt]) -> list[TokenReply]:
        """Return one reply per prompt.

        Raises:
            RunError: no memory for a single prompt, or logits that are not numbers.
        """
        self._replies = {}
        rows = [
            _Row(index, self._request(prompt), list(prompt.ids), prompt.limit)
            for index, prompt in enumerate(prompts)
        ]
        for batch in self._batches(rows):
            for _, reply in self._in_room(batch):
                if reply.error:
                    raise RunError(
                        f"the student could not answer a row: {reply.error}",
                        where="trainer.on_policy",
                        hint="a lower max_new_tokens or batch_size needs less memory; after NaN "
                        "logits, a lower trainer.learning_rate often helps",
                    )
        return [self._replies[index] for index in range(len(prompts))]

    def _request(self, prompt: TokenPrompt) -> GenerationRequest:
        return GenerationRequest((), self.temperature, prompt.limit, prompt.seed)

    def _next_logits(self, logits: torch.Tensor) -> torch.Tensor:
        """Leave out ids that are padding of the vocabulary, or unknown to a teacher."""
        # In place, and not cut: a greedy choice and a draw read the same row.
        logits[:, self.vocabulary :] = float("-inf")
        return logits

    def _ended(self, row: _Row, token: int) -> Finish | None:
        """Do the same as for an evaluation, but keep the token that ends the turn."""
        reason = super()._ended(row, token)
        if reason is Finish.STOP:
            row.tokens.append(token)
        return reason

    def _reply(self, row: _Row, reason: Finish, seconds: float) -> Reply:
        """Keep a row's tokens."""
        self._replies[row.index] = TokenReply(tuple(row.tokens), reason is Finish.STOP)
        return super()._reply(row, reason, seconds)
