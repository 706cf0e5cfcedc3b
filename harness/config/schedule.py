"""The learning rate over a training, and what depends on it."""

from __future__ import annotations

from typing import Literal

from kdharness.harness.config.base import is_stored

Schedule = Literal["cosine", "linear", "constant", "constant_with_warmup"]
WARMUP = 0.1
"""The share of steps with a warm-up where a config names none."""


def check_rates(rate: float, schedule: Schedule, warmup: float, l2_start: float) -> None:
    """Refuse settings of the learning rate that have no effect or go too far.

    Raises:
        ValueError: what to change.
    """
    # A stored config names every field, so the default cannot be told from the same value given.
    if schedule == "constant" and warmup not in (0, WARMUP) and not is_stored():
        raise ValueError(
            f"warmup_ratio: {warmup:g} has no effect with schedule: constant: remove it, or set "
            "schedule: constant_with_warmup"
        )
    if l2_start * rate >= 1:
        raise ValueError(
            f"l2_start: each step goes learning_rate · l2_start = {l2_start * rate:g} of the way "
            f"back to the start, which must be below 1: lower it to less than {1 / rate:g}"
        )
