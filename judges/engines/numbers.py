"""The probability of each number after a reply that was begun, from any kind of engine.

A local model takes one forward pass over the prompt, then one short pass per beginning of a number
("1" may go on to "10" or "15"), each on the same cache.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import torch

from kdharness.harness.types import Finish, Reply
from kdharness.judges.engines.kv_cache import PaddingMask, RoomyLayer, roomy_cache
from kdharness.judges.engines.openings import instead, likely
from kdharness.judges.engines.sampling import BROKEN
from kdharness.judges.scoring.expected import (
    START,
    Branch,
    NumberReading,
    Token,
    begins_number,
)

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase


def numerals(tokenizer: PreTrainedTokenizerBase) -> dict[int, str]:
    """Return the tokens whose text begins with a digit, after blanks if any."""
    # Vocabularies write blanks and bytes in their own way, but digits as they are.
    some = sorted(i for t, i in tokenizer.get_vocab().items() if any(c in "0123456789" for c in t))
    texts = {token: str(tokenizer.decode([token])) for token in some}
    special = set(tokenizer.all_special_ids)
    return {i: text for i, text in texts.items() if i not in special and begins_number(text)}


def following(
    logits: torch.Tensor, texts: Mapping[int, str]
) -> tuple[list[list[Token]], list[tuple[int, float]]]:
    """Return for each row the tokens that begin with a digit, and the likeliest of all tokens.

    Args:
        logits: fp32 [rows, tokens].
        texts: token -> text of those that begin with a digit.
    """
    known = [token for token in texts if token < logits.shape[-1]]
    logs = logits.log_softmax(-1)
    shares = logs[:, torch.tensor(known, dtype=torch.long, device=logits.device)].exp().tolist()
    best, place = logs.max(-1)
    rows = [
        [(token, texts[token], share) for token, share in zip(known, line, strict=True)]
        for line in shares
    ]
    return rows, list(zip(place.tolist(), best.exp().tolist(), strict=True))


class NumberReader:
    """Reads the numbers after the prompts of one batch."""

    def __init__(self, model: Any, prompts: Sequence[Sequence[int]], pad: int) -> None:
        """Prepare a batch of prompts, padded with `pad` on the left."""
        self.model = model
        self.prompts = [list(prompt) for prompt in prompts]
        self.pad = pad
        self.device = next(model.parameters()).device
        self.width = max(map(len, self.prompts))
        self.mask = PaddingMask([len(prompt) for prompt in self.prompts], self.device)
        self.cache = roomy_cache(model.config)

    def read(
        self, texts: Mapping[int, str]
    ) -> Iterator[tuple[NumberReading | None, tuple[int, float]]]:
        """Yield each row's reading and its likeliest first token; None for logits without values.

        Raises:
            torch.OutOfMemoryError: memory ran out.
        """
        first = self._after(())
        sound = first.isfinite().any(-1) & ~first.isnan().any(-1)
        readings = [NumberReading() for _ in self.prompts]
        rows, likeliest = following(first, texts)
        # Every row has the same beginnings: only their probabilities differ.
        branches = [r.follow(START, row) for r, row in zip(readings, rows, strict=True)]
        while branches[0]:
            longer: list[list[Branch]] = [[] for _ in readings]
            for number in range(len(branches[0])):
                tokens = branches[0][number].tokens
                rows, _ = following(self._after(tokens), texts)
                for index, reading in enumerate(readings):
                    longer[index] += reading.follow(branches[index][number], rows[index])
            branches = longer
        for reading, good, best in zip(readings, sound.tolist(), likeliest, strict=True):
            yield (reading if good else None), best

    def _after(self, tokens: tuple[int, ...]) -> torch.Tensor:
        """Return the logits after the prompts and the same further tokens, fp32 [rows, tokens]."""
        layers = getattr(self.cache, "layers", ())
        if tokens and not all(type(layer) is RoomyLayer for layer in layers):
            # This cache cannot forget its last tokens.
            longer = [[*prompt, *tokens] for prompt in self.prompts]
            return NumberReader(self.model, longer, self.pad)._after(())
        if not tokens:
            ids = [[self.pad] * (self.width - len(p)) + p for p in self.prompts]
            positions = self.mask.positions
        else:
            for layer in layers:
                layer.cut(self.width)
            ids = [list(tokens) for _ in self.prompts]
            steps = torch.arange(1, len(tokens) + 1, device=self.device)
            positions = self.mask.positions[:, -1:] + steps
        output = self.model(
            input_ids=torch.tensor(ids, device=self.device),
            attention_mask=self.mask.of(self.width + len(tokens)),
            position_ids=positions,
            past_key_values=self.cache,
            use_cache=True,
            **last_only(self.model),
        )
        last: torch.Tensor = output.logits[:, -1].float()
        return last.to(self.device)


def last_only(model: Any) -> dict[str, int]:
    """Return the option to compute only the last position's logits, if the model supports it."""
    parameters = inspect.signature(model.forward).parameters
    return {"logits_to_keep": 1} if "logits_to_keep" in parameters else {}


def read_one(
    after: Callable[[tuple[int, ...]], torch.Tensor | None],
    texts: Mapping[int, str],
    text: Callable[[int], str],
) -> Reply | None:
    """Return the numbers after one prompt, asked one beginning after the other.

    Args:
        after: returns the logits after the prompt and further tokens, fp32 [1, tokens]; None after
            a stop request; raises RuntimeError if they cannot be computed.
        texts: token -> text of those that begin with a digit.
        text: the text of any token.
    """
    reading, branches, info = NumberReading(), [START], dict[str, object]()
    while branches:
        branch = branches.pop()
        try:
            logits = after(branch.tokens)
        except RuntimeError as failed:
            return Reply(error=f"the prompt could not be read: {failed}", finish=Finish.ERROR)
        if logits is None:
            return None
        if bool(logits.isnan().any()) or not bool(logits.isfinite().any()):
            return Reply(error=BROKEN, finish=Finish.ERROR)
        rows, likeliest = following(logits, texts)
        branches += likely(reading.follow(branch, rows[0]), reading)
        info = info or instead(text(likeliest[0][0]), likeliest[0][1])
    return Reply(top_logprobs=reading.logprobs, info=info)
