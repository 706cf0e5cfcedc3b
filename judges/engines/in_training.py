"""A model that is being trained as an engine: its weights in memory, no second copy."""

from __future__ import annotations

from typing import TYPE_CHECKING

from kdharness.harness.chat.end_tokens import all_ends
from kdharness.harness.paths import Paths
from kdharness.judges.engines.kv_cache import check_cache
from kdharness.judges.engines.local import LocalEngine

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase


class InTraining(LocalEngine):
    """The local engine over a loaded model, which stays its owner's."""

    def __init__(
        self,
        model: PreTrainedModel,
        tokenizer: PreTrainedTokenizerBase,
        paths: Paths,
        *,
        batch_size: int = 16,
    ) -> None:
        """Create the engine.

        Args:
            model: a causal LM without wrappers, in eval mode whenever it generates.
            tokenizer: with the chat template of its training rows.
            paths: the home.
            batch_size: chats per batch.

        Raises:
            ModelError: a model whose cache the engine does not know.
        """
        super().__init__("the model in training", paths, batch_size=batch_size)
        check_cache(model, self.source)
        self._model, self._tokenizer = model, tokenizer
        self.end_tokens = frozenset(all_ends(model, tokenizer))

    def close(self) -> None:
        """Do nothing: the training still needs the model."""
