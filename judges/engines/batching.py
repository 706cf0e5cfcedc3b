"""Which prompts are read together: the beginning that a batch shares is read once.

A batch costs as many tokens as its shared beginning has, then every row's rest, padded to the
longest. Prompts of one question or one template share much, prompts of one length pad little; both
are searched, and the cheapest cuts are taken.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from itertools import pairwise
from typing import NamedTuple

Prompt = Sequence[int]
TEMPLATE = 64
"""Tokens at a prompt's beginning that tell templates apart."""


class Limits(NamedTuple):
    """What a batch may have.

    Attributes:
        rows: the most rows.
        tokens: the most tokens, padding included.
        start: what a pass costs beside its tokens, in tokens.
    """

    rows: int
    tokens: int
    start: int


def common_prefix(prompts: Sequence[Prompt]) -> int:
    """Return how many tokens all prompts begin with; at least one is left of each."""
    low, high = min(prompts, key=list), max(prompts, key=list)
    shared = next((n for n, (a, b) in enumerate(zip(low, high, strict=False)) if a != b), len(low))
    return min(shared, min(map(len, prompts)) - 1)


def batches_of(prompts: Sequence[Prompt], limits: Limits) -> list[list[int]]:
    """Return batches of prompts, as their places; the one with most tokens first.

    Prompts that begin alike are brought together, then those that this left alone, by template and
    length.
    """
    found = _cut(sorted(range(len(prompts)), key=lambda at: list(prompts[at])), prompts, limits)
    alone = [batch[0] for batch in found if len(batch) == 1]
    alone.sort(key=lambda at: (list(prompts[at][:TEMPLATE]), len(prompts[at])))
    batches = [batch for batch in found if len(batch) > 1] + _cut(alone, prompts, limits)
    # Running out of memory then shows at once.
    return sorted(batches, key=lambda batch: -max(len(prompts[at]) for at in batch) * len(batch))


def generation_batches(sizes: Sequence[tuple[int, int]], limits: Limits) -> list[list[int]]:
    """Return batches of rows to generate together, as their places; the longest rows first.

    A batch pads its prompts to the longest and takes as many passes as its longest answer: few
    tokens are worth more batches, many are not.

    Args:
        sizes: each row's prompt tokens, and the most tokens to generate.
        limits: what a batch may have, prompts alone.
    """
    order = sorted(range(len(sizes)), key=lambda at: (sizes[at][1], sizes[at][0]), reverse=True)

    def costs(end: int) -> Iterator[int]:
        longest = steps = 0
        for start in range(end - 1, -1, -1):
            rows = end - start
            prompt, limit = sizes[order[start]]
            longest, steps = max(longest, prompt), max(steps, limit)
            if rows > 1 and (rows > limits.rows or rows * longest > limits.tokens):
                return
            yield limits.start + rows * longest + steps * (rows + limits.start)

    return [list(order[start:end]) for start, end in cheapest_cuts(len(order), costs)]


def _cut(order: Sequence[int], prompts: Sequence[Prompt], limits: Limits) -> list[list[int]]:
    """Cut an order of prompts into the batches that cost least together."""
    shared = [0, *(common_prefix([prompts[a], prompts[b]]) for a, b in pairwise(order))]

    def costs(end: int) -> Iterator[int]:
        longest, common = 0, len(prompts[order[end - 1]])
        for start in range(end - 1, -1, -1):
            rows = end - start
            longest = max(longest, len(prompts[order[start]]))
            if rows > 1 and (rows > limits.rows or rows * longest > limits.tokens):
                return
            if rows > 1:
                # What all begin with is the least that two neighbours do.
                common = min(common, shared[start + 1])
            yield limits.start + common + rows * (longest - common)

    return [list(order[start:end]) for start, end in cheapest_cuts(len(order), costs)]


def cheapest_cuts(count: int, costs: Callable[[int], Iterable[int]]) -> list[tuple[int, int]]:
    """Return the parts [start, end) of a sequence whose costs add up to least.

    Args:
        count: the sequence's length.
        costs: given an end, the costs of the parts with it, from the shortest to the longest that
            may be.
    """
    least, begins = [0], [0]
    for end in range(1, count + 1):
        price, start = min(
            (least[end - rows] + cost, end - rows) for rows, cost in enumerate(costs(end), 1)
        )
        least.append(price)
        begins.append(start)
    parts, end = [], count
    while end:
        parts.append((begins[end], end))
        end = begins[end]
    return parts[::-1]
