"""Consecutive failures: when they concern every call and not just one."""

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
"""Consecutive failures that end a run in which some call succeeded before."""
_LOOK = 0.01


class Streak:
    """Counts consecutive failures of one kind.

    Until the first success, an error that may concern every call holds new calls back while others
    are in progress: their outcome shows whether to spend more money.
    """

    def __init__(self) -> None:
        self.answers = 0
        self.count = 0
        self.kind = ""
        self.over = False
        self._under_way = 0

    @contextmanager
    def call(self) -> Iterator[None]:
        """Count one call as in progress."""
        self._under_way += 1
        try:
            yield
        finally:
            self._under_way -= 1

    async def turn(self) -> bool:
        """Wait while it is open whether all calls are rejected; return False if they are."""
        while self.count and not self.answers and self._under_way and not self.over:
            await asyncio.sleep(_LOOK)
        return not self.over

    def answered(self) -> None:
        """Record a success: earlier errors concerned only their own calls."""
        self.answers += 1
        self.count = 0

    def failed(self, error: CallError) -> bool:
        """Record a call that was given up; return whether the others would fail as well."""
        if error.trouble is Trouble.GIVE_UP:
            return False  # caused by its own text
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
