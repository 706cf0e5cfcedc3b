"""Properties of metrics: range, middle, direction.

A metric is that of a judgment (`rating`, `pair`, `accuracy`) or of a score derived from such
judgments (`general_loss`, `win_rate`). This is the single source of these properties.
"""

from __future__ import annotations

import math
from dataclasses import dataclass


@dataclass(frozen=True)
class MetricSpec:
    """Properties of a metric.

    Attributes:
        low, high: the range of one judgment's value.
        middle: judgments below it count as lost or wrong, above it as won or right; None if
            there is no such value.
        step: minimum change to count as flipped, if there is no middle.
        lower_is_better: whether lower is better.
        unit: the unit, for display.
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
        """Return whether a judgment changed from wrong to right, or back."""
        if self.middle is None:
            return abs(second - first) >= self.step > 0
        return (first >= self.middle) != (second >= self.middle)

    def sign(self, value: float) -> int:
        """Return 1 above the middle, -1 below it, 0 on it. Raises TypeError without a middle."""
        if self.middle is None:
            raise TypeError("this metric has no middle")
        return (value > self.middle) - (value < self.middle)


SHARE = MetricSpec(0.0, 1.0, middle=0.5, unit="share")
"""Exact metrics, pairwise matches, agreement: 0 is wrong or lost, 1 is right or won."""
RATING = MetricSpec(1.0, 10.0, step=2.0, unit="points")
PREFERENCE = MetricSpec(1.0, 2.0, middle=1.5, unit="preference")
"""1 for the baseline, 2 for the model; shown as a percentage."""
NATS = MetricSpec(0.0, math.inf, lower_is_better=True, unit="nats per token")
"""Losses and KL divergences."""
LOSSES = MetricSpec(0.0, 1.0, middle=0.5, lower_is_better=True, unit="share")
"""Share of lost matches."""

PERPLEXITY = MetricSpec(1.0, math.inf, lower_is_better=True, unit="perplexity")

ERRORS = MetricSpec(0.0, math.inf, lower_is_better=True, unit="error rate")
"""Errors per word or character of the reference, which may exceed 1."""

EXPECTED = "expected_"
"""Begins the metrics of expected ratings, so that no parsed rating answers for one of them."""
EXPECTED_RATING = f"{EXPECTED}rating"
"""The mean of a judge's distribution over the ratings 1 to 10: of a judgment, and of a score."""
RATINGS = frozenset({"rating", EXPECTED_RATING})
CATEGORY = "category:"
HARD, CREATIVE = "hard_prompt", "creative_writing"
BOTH_ORDERS = frozenset({HARD, CREATIVE})
"""Metrics of matches that count only with a verdict in both orders."""

_BY_NAME = {
    "rating": RATING,
    EXPECTED_RATING: RATING,
    "preference": PREFERENCE,
    "loss_rate": LOSSES,
    "bits_per_byte": NATS,
    "brier_score": LOSSES,
    **dict.fromkeys(("ter", "wer", "cer"), ERRORS),
}
_BY_ENDING = {"_loss": NATS, "_kl": NATS, "perplexity": PERPLEXITY}
LOWER, HIGHER = "lower:", "higher:"
"""Begin the names of imported metrics whose direction is not the one their own name would have."""
_BY_BEGINNING = {
    LOWER: MetricSpec(-math.inf, math.inf, lower_is_better=True),
    HIGHER: MetricSpec(-math.inf, math.inf),
}


def metric_spec(metric: str) -> MetricSpec:
    """Return the spec of a metric by name; unlisted metrics are shares between 0 and 1."""
    # Imported metrics name their filter after a slash.
    name = metric if metric.startswith(CATEGORY) else metric.partition("/")[0]
    if name in _BY_NAME:
        return _BY_NAME[name]
    for start, spec in _BY_BEGINNING.items():
        if name.startswith(start):
            return spec
    return next((spec for end, spec in _BY_ENDING.items() if name.endswith(end)), SHARE)


def category_of(metric: str) -> str | None:
    """Return the category that a score is limited to; None for any other score."""
    rest = metric.removeprefix(EXPECTED)
    return rest.removeprefix(CATEGORY) if rest.startswith(CATEGORY) else None


def percent(preference: float) -> float:
    """Convert a preference in 1-2 to a win rate in percent."""
    return 100 * (preference - PREFERENCE.low)
