"""Checks of time that a busy machine cannot break."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

TIMES = 8
QUADRATIC = TIMES**2


def assert_not_quadratic(work: Callable[[int], object], size: int) -> None:
    """Check that eight times the input takes far less than 64 times the CPU time.

    Args:
        work: does the work for an input of about the given size.
        size: the larger of the two sizes; in quadratic time it should take well over 0.1 s.
    """
    small = size // TIMES
    work(small)  # what is cached or imported at the first call is not measured
    base = max(0.002, min(_cpu_seconds(work, small) for _ in range(3)))
    limit = base * 25
    seconds = _cpu_seconds(work, size)
    if seconds > limit:  # the collector may have run
        seconds = min(seconds, _cpu_seconds(work, size))
    assert seconds <= limit, (
        f"{TIMES} times the input took {seconds / base:.0f} times as long "
        f"({base:.3f} s, {seconds:.3f} s); quadratic time would be {QUADRATIC} times"
    )


def _cpu_seconds(work: Callable[[int], object], size: int) -> float:
    began = time.process_time()
    work(size)
    return time.process_time() - began


@contextmanager
def without_hanging(seconds: float = 60.0) -> Iterator[None]:
    """Fail if the block takes longer than it does on any machine, unless something hangs."""
    began = time.monotonic()
    yield
    took = time.monotonic() - began
    assert took < seconds, f"it took {took:.0f} s"
