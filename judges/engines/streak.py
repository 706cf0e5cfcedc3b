"""Refusals in a row: when they are no longer one call's trouble but every call's."""

from __future__ import annotations

import asyncio
import re
from collections.abc import Iterator
from contextlib import contextmanager

from kdharness.judges.engines.trouble import CallError, Trouble

OF_THE_ACCOUNT = ("HTTP 402", "HTTP 403", "HTTP 404", "HTTP 407")
AFTER_ACCOUNT = 4
AFTER_REFUSED = 8
AFTER_EXHAUSTED = 16
AFTER_ANSWERS = 40
"""So many failures in a row end a run in which something was answered before."""
_LOOK = 0.01


class Streak:
    """Counts failures of one kind that nothing interrupts.

    Until the first answer has come, a refusal that may concern every call holds new ones back
    while others are under way: what those bring tells whether more money is worth risking.
    """

    def __init__(self) -> None:
        self.answers = 0
        self.count = 0
        self.kind = ""
        self.over = False
        self._under_way = 0

    @contextmanager
    def call(self) -> Iterator[None]:
        """One call is under way."""
        self._under_way += 1
        try:
            yield
        finally:
            self._under_way -= 1

    async def turn(self) -> bool:
        """Wait for what is under way while it is open whether all is refused; False if it is."""
        while self.count and not self.answers and self._under_way and not self.over:
            await asyncio.sleep(_LOOK)
        return not self.over

    def answered(self) -> None:
        """An answer came: what was refused concerned its own call."""
        self.answers += 1
        self.count = 0

    def failed(self, error: CallError) -> bool:
        """Note a call that was given up; True when the others will fare no better."""
        if error.trouble is Trouble.GIVE_UP:
            return False  # its own text is to blame
        kind = re.sub(r"\S*\d\S*", "#", error.message.partition(":")[2] or error.message)[:200]
        kind = f"{error.message[:8]}{kind}"
        self.count = self.count + 1 if kind == self.kind or not self.count else 1
        self.kind = kind
        return self.count >= self._most(error)

    def _most(self, error: CallError) -> int:
        if self.answers:
            return AFTER_ANSWERS
        if error.trouble is Trouble.RETRY:
            return AFTER_EXHAUSTED
        return AFTER_ACCOUNT if error.message.startswith(OF_THE_ACCOUNT) else AFTER_REFUSED
