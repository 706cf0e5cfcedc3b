"""Statistics over plain arrays: intervals, paired tests, Pareto fronts.

The corrections by people's labels are imported on first use: few homes have labels, and numpy
takes longer to import than a cached leaderboard to open.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from kdharness.harness.util.lazy import lazy_names

if TYPE_CHECKING:
    from kdharness.harness.stats.corrected import Question, corrected_mean, rater_agreement
    from kdharness.harness.stats.inference import Difference

__all__ = ["Difference", "Question", "corrected_mean", "rater_agreement"]


if not TYPE_CHECKING:  # else a type checker would take any name for one of this package
    __getattr__ = lazy_names(
        __name__,
        {
            "kdharness.harness.stats.corrected": ("Question", "corrected_mean", "rater_agreement"),
            "kdharness.harness.stats.inference": ("Difference",),
        },
    )
