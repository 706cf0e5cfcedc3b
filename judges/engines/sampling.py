"""Sampling the next token of each row, on the logits' own device.

A draw is a pure function of the row's seed, its position and its logits: no generator has a state
that other rows, an earlier batch or a retry could move. The noise is Philox-4x32-10 (Salmon et al.,
"Parallel random numbers: as easy as 1, 2, 3", 2011), with the seed as its key and the position as
its counter. The token is the inverse of the cumulative distribution, in whole numbers: sums of
integers are exact in any order, so that a parallel sum gives every device the same token, and a
token whose share is 0 has no number that leads to it.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch

from kdharness.harness.types import GenerationRequest
from kdharness.judges.engines.dialect import GREEDY

BROKEN = "the model's output is not a number (NaN or infinite logits): are its weights damaged?"
SHARE_BITS = 40
"""A share of 1 is 2^40: with 2^21 tokens or fewer, sums stay below 2^41 and products below 2^63."""
LIMB_BITS = 21
ROWS = 16
"""Rows drawn at once: bounds the memory beside the logits, four times theirs."""
CHUNK = 256
"""Positions whose noise is made at once."""

_WORD = 0xFFFFFFFF
_MULTIPLIERS = (0xD2511F53, 0xCD9E8D57)
_KEY_STEPS = (0x9E3779B9, 0xBB67AE85)
_ROUNDS = 10

Words = tuple[torch.Tensor, torch.Tensor, torch.Tensor, torch.Tensor]


def philox(counter: Words, key: tuple[torch.Tensor, torch.Tensor]) -> Words:
    """Return the four words of Philox-4x32-10; every word is an int64 below 2^32."""
    c0, c1, c2, c3 = counter
    k0, k1 = key
    for _ in range(_ROUNDS):
        high0, low0 = _product(c0, _MULTIPLIERS[0])
        high1, low1 = _product(c2, _MULTIPLIERS[1])
        c0, c1, c2, c3 = high1 ^ c1 ^ k0, low1, high0 ^ c3 ^ k1, low0
        k0, k1 = (k0 + _KEY_STEPS[0]) & _WORD, (k1 + _KEY_STEPS[1]) & _WORD
    return c0, c1, c2, c3


def _product(word: torch.Tensor, multiplier: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Return the high and the low 32 bits of a product, without leaving the range of int64."""
    low = word * (multiplier & 0xFFFF)
    high = word * (multiplier >> 16) + (low >> 16)
    return high >> 16, ((high & 0xFFFF) << 16) | (low & 0xFFFF)


def limbs(seeds: torch.Tensor, first: int, count: int) -> torch.Tensor:
    """Return three numbers of 21 bits for each seed and position.

    Args:
        seeds: int64 [rows, 2], the low and the high 32 bits of each seed.
        first, count: the range of positions.

    Returns:
        int64 [3, rows, count], most significant first.
    """
    positions = torch.arange(first, first + count, device=seeds.device).expand(len(seeds), count)
    zero = torch.zeros_like(positions)
    counter = (positions & _WORD, positions >> 32, zero, zero)
    words = philox(counter, (seeds[:, :1], seeds[:, 1:]))
    return torch.stack(words[:3]) >> (32 - LIMB_BITS)


def draw(shares: torch.Tensor, noise: torch.Tensor) -> torch.Tensor:
    """Return one token per row, with the probability of its share.

    Args:
        shares: [rows, tokens], each row sums to 1.
        noise: int64 [3, rows] of `limbs`.
    """
    reached = (shares * float(1 << SHARE_BITS)).long().cumsum_(-1)
    total = reached[:, -1]
    # The fraction 0.abc (in limbs) of the total, rounded down: below the total in any case.
    target = torch.zeros_like(total)
    for limb in noise.flip(0):
        target = (limb * total + target) >> LIMB_BITS
    return torch.searchsorted(reached, target[:, None], right=True)[:, 0]


def temperature_of(request: GenerationRequest) -> float | None:
    """Return a request's temperature, or None for a greedy one."""
    return request.temperature if request.temperature >= GREEDY else None


class Sampler:
    """The choice of tokens for the rows of a batch: the likeliest one, or one drawn."""

    def __init__(
        self, temperatures: Sequence[float | None], seeds: Sequence[int], device: torch.device
    ) -> None:
        """Create the sampler of a batch.

        Args:
            temperatures: of each row; None for greedy ones.
            seeds: of each row; of a longer seed the low 64 bits count.
            device: where the logits are.
        """
        self.device = device
        self.rows = [
            None if temperature is None else (temperature, seed)
            for temperature, seed in zip(temperatures, seeds, strict=True)
        ]
        self._prepare()

    def _prepare(self) -> None:
        """Move to the device what the sampled rows need."""
        sampled = [(index, *row) for index, row in enumerate(self.rows) if row is not None]
        words = [(seed & _WORD, seed >> 32 & _WORD) for _, _, seed in sampled]
        self._sampled = bool(sampled)
        indices = [index for index, _, _ in sampled]
        self._index = torch.tensor(indices, dtype=torch.long, device=self.device)
        self._seeds = torch.tensor(words, device=self.device).view(-1, 2)
        heat = [[temperature] for _, temperature, _ in sampled]
        self._heat = torch.tensor(heat, dtype=torch.float32, device=self.device).view(-1, 1)
        self._chunk = -1

    def keep(self, rows: Sequence[int]) -> None:
        """Forget the rows that left the batch."""
        self.rows = [self.rows[row] for row in rows]
        if self._sampled:
            self._prepare()

    def choose(self, logits: torch.Tensor, position: int) -> torch.Tensor:
        """Return the next token of each row as int64 [rows], without waiting for the device.

        Rows with a logit that is NaN or +inf get -1.

        Args:
            logits: fp32 [rows, tokens].
            position: how many tokens the rows have generated.
        """
        chosen = logits.argmax(-1)
        # NaN counts as the largest: one logit per row tells whether all are numbers.
        best = logits.gather(-1, chosen[:, None])[:, 0]
        if self._sampled:
            whole = len(self._index) == len(self.rows)
            some = logits if whole else logits.index_select(0, self._index)
            parts = zip(
                some.split(ROWS),
                self._heat.split(ROWS),
                self._noise(position).split(ROWS, -1),
                strict=True,
            )
            drawn = torch.cat([draw((part / heat).softmax(-1), n) for part, heat, n in parts])
            chosen = drawn if whole else chosen.index_copy(0, self._index, drawn)
        return chosen.where(best.isfinite(), -1)

    def _noise(self, position: int) -> torch.Tensor:
        if position // CHUNK != self._chunk:
            self._chunk = position // CHUNK
            self._limbs = limbs(self._seeds, self._chunk * CHUNK, CHUNK)
        return self._limbs[..., position % CHUNK]
