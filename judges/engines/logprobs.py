"""The log-probabilities of a reply's first token, from the full distribution."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass

import torch

Logprobs = tuple[tuple[str, float], ...]


@dataclass(frozen=True)
class Wanted:
    """How many of the likeliest tokens a request asks for, and the tokens of its choices."""

    top: int
    choices: Mapping[str, list[int]]

    def known(self, vocabulary: int) -> dict[str, int]:
        """Return the choices that are one token of the model, with these tokens."""
        return {
            choice: tokens[0]
            for choice, tokens in self.choices.items()
            if len(tokens) == 1 and tokens[0] < vocabulary
        }


def first_logprobs(
    logits: torch.Tensor, wanted: Mapping[int, Wanted], text: Callable[[int], str]
) -> dict[int, Logprobs]:
    """Return (text, log-probability) pairs of the wanted rows, the likeliest first.

    Everything comes to the host in one copy.

    Args:
        logits: fp32 [rows, tokens].
        wanted: row -> what it asks for.
        text: the text of a token.
    """
    if not wanted:
        return {}
    size = logits.shape[-1]
    spelt = [each.known(size) for each in wanted.values()]
    logs = logits[torch.tensor(list(wanted), device=logits.device)].log_softmax(-1)
    values, tokens = logs.topk(min(max(each.top for each in wanted.values()), size))
    # Shorter lists of choices are filled up with a token that is not read.
    longest = max(map(len, spelt))
    filled = [[*ids.values(), *[0] * (longest - len(ids))] for ids in spelt]
    places = torch.tensor(filled, dtype=torch.long, device=logits.device)
    # Token ids are below 2^24: fp32 holds them exactly.
    table = torch.cat([tokens.float(), values, logs.gather(-1, places)], -1).tolist()
    found, width = {}, tokens.shape[-1]
    for (row, each), ids, line in zip(wanted.items(), spelt, table, strict=True):
        top = list(zip(line[:width], line[width:], strict=False))[: each.top]
        # Of several tokens with one text the likeliest counts.
        logprobs = {text(int(token)): value for token, value in reversed(top)}
        for choice, value in zip(ids, line[2 * width :], strict=False):
            logprobs.setdefault(choice, value)
        ranked = sorted(logprobs.items(), key=lambda pair: -pair[1])
        found[row] = tuple((token, value) for token, value in ranked if math.isfinite(value))
    return found
