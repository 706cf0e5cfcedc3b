"""What the values of a metric mean: their range, their middle, which direction is better.

A metric here is that of a judgment (`rating`, `pair`, `accuracy`) or of a score made of such
judgments (`general_loss`, `win_rate`). Everything that needs such a fact asks here.
"""

from __future__ import annotations

import math
from dataclasses import dataclass


@dataclass(frozen=True)
class MetricSpec:
    """What a metric's values mean.

    Attributes:
        low, high: the range of one judgment's value.
        middle: the value on one side of which a judgment counts as lost or wrong, on the other
            as won or right; None where there is no such value.
        step: how far a value must move to count as flipped, where there is no middle.
        lower_is_better: whether less is better.
        unit: what one is counted in, for people.
    """

    low: float
    high: float
    middle: float | None = None
    step: float = 0.0
    lower_is_better: bool = False
    unit: str = ""

    @property
    def bounds(self) -> tuple[float, float]:
        """The range as a pair."""
        return self.low, self.high

    def flipped(self, first: float, second: float) -> bool:
        """Whether a judgment has gone from wrong to right, or back."""
        if self.middle is None:
            return abs(second - first) >= self.step > 0
        return (first >= self.middle) != (second >= self.middle)

    def sign(self, value: float) -> int:
        """1 above the middle, -1 below it, 0 on it. Raises TypeError without a middle."""
        if self.middle is None:
            raise TypeError("this metric has no middle")
        return (value > self.middle) - (value < self.middle)


SHARE = MetricSpec(0.0, 1.0, middle=0.5, unit="share")
"""Exact metrics, matches of a pair, agreement: from wrong or lost to right or won."""
RATING = MetricSpec(1.0, 10.0, step=2.0, unit="points")
PREFERENCE = MetricSpec(1.0, 2.0, middle=1.5, unit="preference")
"""1 for the baseline, 2 for the model; shown as a percentage."""
NATS = MetricSpec(0.0, math.inf, lower_is_better=True, unit="nats per token")
"""Losses and KL divergences."""
LOSSES = MetricSpec(0.0, 1.0, middle=0.5, lower_is_better=True, unit="share")
"""The share of matches that were lost."""

_BY_NAME = {"rating": RATING, "preference": PREFERENCE, "loss_rate": LOSSES}
_BY_ENDING = {"_loss": NATS, "_kl": NATS}


def metric_spec(metric: str) -> MetricSpec:
    """The spec of a metric by its name; what is not listed is a share between 0 and 1."""
    if metric in _BY_NAME:
        return _BY_NAME[metric]
    return next((spec for end, spec in _BY_ENDING.items() if metric.endswith(end)), SHARE)


def percent(preference: float) -> float:
    """A preference in 1-2 as a win rate in percent."""
    return 100 * (preference - PREFERENCE.low)
