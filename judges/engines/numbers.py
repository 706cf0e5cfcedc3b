"""The probability of each number after a reply that was begun, from any kind of engine.

A local model takes one forward pass over the prompt, then a short one over the beginnings of
numbers ("1" may go on to "10" or "15") on the same cache.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import torch

from kdharness.harness.types import Finish, Reply
from kdharness.judges.engines.batching import common_prefix
from kdharness.judges.engines.kv_cache import RoomyLayer, roomy_cache
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


MASKED = frozenset({"sdpa", "eager"})
"""Attention that takes a mask of its own for every token."""


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
    """Reads the numbers after the prompts of one batch.

    What all prompts begin with is read once. The beginnings of numbers are read together, in one
    pass in which each sees the prompt and itself alone, if the model's attention allows it.
    """

    def __init__(self, model: Any, prompts: Sequence[Sequence[int]], pad: int) -> None:
        """Prepare a batch of prompts; the shorter ones are padded with `pad`."""
        self.model = model
        self.prompts = [list(prompt) for prompt in prompts]
        self.device = next(model.parameters()).device
        self.cache = roomy_cache(model.config)
        self.pad = pad
        plain = all(type(layer) is RoomyLayer for layer in getattr(self.cache, "layers", ()))
        attention = getattr(model.config, "_attn_implementation", "")
        self.forgets, self.branches = plain, plain and attention in MASKED
        self.shared = common_prefix(self.prompts) if plain and len(prompts) > 1 else 0
        self.width = max(map(len, self.prompts))
        gaps = [self.width - len(prompt) for prompt in self.prompts]
        ids = [
            p[: self.shared] + [pad] * g + p[self.shared :]
            for p, g in zip(self.prompts, gaps, strict=True)
        ]
        self.ids = torch.tensor(ids, device=self.device)
        self.known = torch.ones_like(self.ids)
        for row, gap in enumerate(gaps):
            self.known[row, self.shared : self.shared + gap] = 0
        self.positions = (self.known.cumsum(-1) - 1).clamp(min=0)

    def read(
        self, texts: Mapping[int, str]
    ) -> Iterator[tuple[NumberReading | None, tuple[int, float]]]:
        """Yield each row's reading and its likeliest first token; None for logits without values.

        Raises:
            torch.OutOfMemoryError: memory ran out.
        """
        first = self._first()
        sound = first.isfinite().any(-1) & ~first.isnan().any(-1)
        readings = [NumberReading() for _ in self.prompts]
        rows, likeliest = following(first, texts)
        # Every row has the same beginnings: only their probabilities differ.
        branches = [r.follow(START, row) for r, row in zip(readings, rows, strict=True)]
        while branches[0]:
            longer: list[list[Branch]] = [[] for _ in readings]
            paths = [branch.tokens for branch in branches[0]]
            for number, logits in enumerate(self._after(paths)):
                rows, _ = following(logits, texts)
                for index, reading in enumerate(readings):
                    longer[index] += reading.follow(branches[index][number], rows[index])
            branches = longer
        for reading, good, best in zip(readings, sound.tolist(), likeliest, strict=True):
            yield (reading if good else None), best

    def _first(self) -> torch.Tensor:
        """Return the logits after the prompts, fp32 [rows, tokens]."""
        if self.shared:
            start = slice(0, self.shared)
            self._run(self.ids[:1, start], None, self.positions[:1, start], 1)
            self.cache.batch_repeat_interleave(len(self.prompts))
        rest = slice(self.shared, None)
        mask = None if bool(self.known.all()) else self.known
        return self._run(self.ids[:, rest], mask, self.positions[:, rest], 1)[:, -1]

    def _after(self, paths: Sequence[tuple[int, ...]]) -> Iterator[torch.Tensor]:
        """Yield the logits after the prompts and each path, fp32 [rows, tokens]."""
        if self.branches:
            yield from self._together(paths)
            return
        for path in paths:
            if not self.forgets:
                longer = [[*prompt, *path] for prompt in self.prompts]
                yield NumberReader(self.model, longer, self.pad)._first()
                continue
            self._forget()
            ids = torch.tensor([path] * len(self.prompts), device=self.device)
            steps = torch.arange(1, len(path) + 1, device=self.device)
            whole = torch.cat([self.known, torch.ones_like(ids)], -1)
            yield self._run(ids, whole, self.positions[:, -1:] + steps, 1)[:, -1]

    def _together(self, paths: Sequence[tuple[int, ...]]) -> Iterator[torch.Tensor]:
        """Yield the same from one pass, with a mask that keeps the paths apart."""
        self._forget()
        tokens = [token for path in paths for token in path]
        owner = torch.tensor([n for n, path in enumerate(paths) for _ in path])
        depth = torch.tensor([d for path in paths for d in range(len(path))])
        apart = (owner[:, None] == owner) & (depth[:, None] >= depth)
        rows, count = len(self.prompts), len(tokens)
        seen = torch.cat(
            [
                self.known.bool()[:, None, None].expand(rows, 1, count, self.width),
                apart.to(self.device).expand(rows, 1, count, count),
            ],
            -1,
        )
        kind = self.model.dtype
        mask = torch.zeros(seen.shape, dtype=kind, device=self.device)
        mask.masked_fill_(~seen, torch.finfo(kind).min)
        ids = torch.tensor([tokens] * rows, device=self.device)
        steps = self.positions[:, -1:] + 1 + depth.to(self.device)
        logits = self._run(ids, mask, steps, count)[:, -count:]
        place = 0
        for path in paths:
            place += len(path)
            yield logits[:, place - 1]

    def _forget(self) -> None:
        """Forget what was read after the prompts."""
        for layer in getattr(self.cache, "layers", ()):
            layer.cut(self.width)

    def _run(
        self, ids: torch.Tensor, mask: torch.Tensor | None, positions: torch.Tensor, last: int
    ) -> torch.Tensor:
        """Return the logits of at least the last positions, fp32 [rows, positions, tokens]."""
        output = self.model(
            input_ids=ids,
            attention_mask=mask,
            position_ids=positions,
            past_key_values=self.cache,
            use_cache=True,
            **last_only(self.model, last),
        )
        logits: torch.Tensor = output.logits[:, -last:].float()
        return logits.to(self.device)


def last_only(model: Any, count: int = 1) -> dict[str, int]:
    """Return the option to compute only the last positions' logits, if the model supports it."""
    # A model's own forward may have been wrapped, as in a training.
    parameters = inspect.signature(type(model).forward).parameters
    return {"logits_to_keep": count} if "logits_to_keep" in parameters else {}


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
