"""What is known of a model without its weights: tokenizer, end tokens, config, limits."""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING

from kdharness.harness.chat.end_tokens import declared_ends, end_of_turn
from kdharness.harness.models.limits import ModelLimits, limits_of
from kdharness.harness.models.loading import load_config_of, load_tokenizer, meta_model
from kdharness.harness.paths import Paths

if TYPE_CHECKING:
    from transformers import PreTrainedConfig, PreTrainedTokenizerBase

_TUNED = re.compile(r"(?i)(?:^|[-_./])(?:instruct|chat|it|sft|dpo|rlhf)(?:[-_./]|$)")


@dataclass(frozen=True)
class ModelFacts:
    """A model of a training, without weights.

    Attributes:
        role: `student`, or the role of a teacher.
        source: as the config names it.
        tokenizer: its own, with its own chat template or none.
        config: its text config.
        limits: of its embedding and its positions.
    """

    role: str
    source: str
    tokenizer: PreTrainedTokenizerBase
    config: PreTrainedConfig
    limits: ModelLimits

    @classmethod
    def read(cls, role: str, source: str, paths: Paths, *, code: bool = False) -> ModelFacts:
        """Read a model's files.

        Args:
            role: see the class.
            source: a model of a config.
            paths: the home.
            code: whether the model's own code may run.

        Raises:
            ModelError, AssetError: it is not here, or its files are not valid.
        """
        config = load_config_of(source, paths, trust_remote_code=code).get_text_config()
        limits = limits_of(meta_model(source, paths, trust_remote_code=code))
        tokenizer = load_tokenizer(source, paths, trust_remote_code=code)
        return cls(role, source, tokenizer, config, limits)

    @cached_property
    def declared(self) -> dict[str, set[int]]:
        """Its end tokens by where they are declared."""
        return declared_ends(self.tokenizer)

    @property
    def stops(self) -> set[int]:
        """The tokens that end generation in any program."""
        return set().union(*self.declared.values())

    @cached_property
    def turn_end(self) -> int | None:
        """The token that its own chat template closes an answer with."""
        return end_of_turn(self.tokenizer)

    def names(self, ids: Iterable[int]) -> str:
        """Return tokens as text: `'<|im_end|>' and '</s>'`."""
        texts = [repr(name) for name in self.tokenizer.convert_ids_to_tokens(sorted(ids))]
        return " and ".join(texts) or "none"

    @cached_property
    def tuning(self) -> tuple[str, str]:
        """`base`, `instruct` or `unclear`, and why: by template and end tokens, not by name."""
        named = bool(_TUNED.search(self.source))
        if not self.tokenizer.chat_template:
            if named:
                return "unclear", "its name is that of a chat model, but it has no chat template"
            return "base", "no chat template"
        if self.turn_end is None:
            return "unclear", "its chat template closes answers with no token of its own"
        end = self.names([self.turn_end])
        generating = self.declared.get("generation_config.json") or self.stops
        if self.turn_end in generating:
            return "instruct", f"its chat template ends answers with {end}, where generation stops"
        return "base", (
            f"it has a chat template, but generation stops at {self.names(generating)}, not at "
            f"the template's {end}"
        )
