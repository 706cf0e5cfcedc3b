"""Client-side limits: request and token rates, waits the endpoint asks for, and the budget."""

from __future__ import annotations

import asyncio
import random
import time
from dataclasses import dataclass
from typing import Any

from kdharness.harness.config.settings import UserSettings
from kdharness.judges.engines.trouble import Used
from kdharness.judges.engines.waits import retry_after as retry_after

FIRST_WAIT = 0.5
LONGEST_WAIT = 60.0
LOOK = 0.25
"""Seconds between checks for a stop request while nothing arrives."""


class Bucket:
    """A rate per minute as a leaky bucket: bursts of at most one second's worth.

    Requests queue in order; each waits for its own share and no longer.
    """

    def __init__(self, per_minute: float | None) -> None:
        self.rate = per_minute / 60 if per_minute else None
        self.free_at = 0.0

    async def take(self, amount: float = 1.0) -> None:
        """Wait until `amount` fits into the rate."""
        if self.rate is None or amount <= 0:
            return
        now = time.monotonic()
        start = max(self.free_at, now - 1.0)
        self.free_at = start + amount / self.rate
        # One request may always start at once on an empty bucket, however large it is.
        wait = start - now
        if wait > 0:
            await asyncio.sleep(wait)

    def correct(self, amount: float) -> None:
        """Take more (or return some) once the true size of a request is known."""
        if self.rate is not None:
            self.free_at += amount / self.rate


class Gate:
    """Closed while the endpoint asks all calls to wait."""

    def __init__(self) -> None:
        self.opens_at = 0.0

    def close_for(self, seconds: float) -> None:
        """Block new requests for `seconds`."""
        self.opens_at = max(self.opens_at, time.monotonic() + seconds)

    def open(self) -> None:
        """Unblock all waiting calls at once, when the run is stopping."""
        self.opens_at = 0.0

    async def wait(self) -> None:
        """Wait until the gate opens, with jitter so that not all calls start at once."""
        while (left := self.opens_at - time.monotonic()) > 0:
            if left > LOOK:
                await asyncio.sleep(LOOK)
            else:
                await asyncio.sleep(left + random.uniform(0, min(LOOK, left)))


def backoff(attempt: int, first: float = FIRST_WAIT) -> float:
    """Return the seconds before retry `attempt` (from 0): exponential with jitter, never 0."""
    top = min(LONGEST_WAIT, first * 2**attempt)
    return random.uniform(top / 4, top)


@dataclass(frozen=True)
class Price:
    """US dollars per million input tokens and per million output tokens."""

    input: float
    output: float

    def of(self, prompt_tokens: float, tokens: float) -> float:
        """Return the price of one call."""
        return (prompt_tokens * self.input + tokens * self.output) / 1_000_000


def find_price(settings: UserSettings, model: str) -> Price | None:
    """Return the user's own price of a model; None where the settings name none.

    No table ships: prices change, and a wrong one is worse than none.
    """
    known = settings.prices.get(model)
    return Price(known.input, known.output) if known else None


class Bill:
    """The cost of one request over all its calls and retries, charged to a budget."""

    def __init__(self, budget: Budget, price: Price | None) -> None:
        self.budget, self.price = budget, price
        self.usd = self.reserved = 0.0
        self.calls = 0
        self.estimated = False

    async def reserve(self, prompt_tokens: float, tokens: float) -> bool:
        """Reserve the worst case of the next call; return False if it exceeds the budget."""
        self.close()
        worst = self.price.of(prompt_tokens, tokens) if self.price else 0.0
        if not await self.budget.reserve(worst):
            return False
        self.reserved = worst
        return True

    def add(self, used: Used) -> None:
        """Record what a call used, whether it returned an answer or not."""
        usd = self.price.of(used.prompt, used.written) if self.price else 0.0
        self.usd += usd
        self.calls += 1
        self.estimated |= used.estimated
        self.budget.settle(0.0, usd)

    def close(self) -> None:
        """Release the reservation."""
        self.budget.settle(self.reserved, 0.0)
        self.reserved = 0.0

    def note(self) -> dict[str, Any]:
        """Return notes on the cost: whether tokens are estimated, and the number of calls."""
        info: dict[str, object] = {"estimated": True} if self.estimated else {}
        return info | ({"billed_calls": self.calls} if self.calls > 1 else {})


class Budget:
    """A spending limit: a call starts only if its worst case still fits."""

    def __init__(self, limit: float | None) -> None:
        self.limit = limit
        self.spent = 0.0
        self.reserved = 0.0
        self.waiting = asyncio.Event()

    async def reserve(self, usd: float) -> bool:
        """Reserve `usd`; wait for calls in progress if it does not fit; False if it never will."""
        if self.limit is None:
            return True
        while self.spent + self.reserved + usd > self.limit + 1e-12:
            if self.reserved <= 0:
                return False
            self.waiting.clear()
            await self.waiting.wait()
        self.reserved += usd
        return True

    @property
    def is_passed(self) -> bool:
        """Whether spent and reserved money exceed the limit, so that no retry may start."""
        return self.limit is not None and self.spent + self.reserved > self.limit + 1e-12

    def settle(self, reserved: float, usd: float) -> None:
        """Finish a call: release its reservation and record its cost."""
        self.spent += usd
        if self.limit is not None:
            self.reserved = max(0.0, self.reserved - reserved)
            self.waiting.set()
