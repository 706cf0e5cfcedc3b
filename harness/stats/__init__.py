"""Statistics over plain arrays: intervals, paired tests, Pareto fronts.

These names are imported on first use: numpy takes longer to import than a cached leaderboard to
open.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from kdharness.harness.util.lazy import lazy_names

if TYPE_CHECKING:
    from kdharness.harness.stats.answer import verdict_at
    from kdharness.harness.stats.corrected import (
        Question,
        corrected_mean,
        question_weights,
        rater_agreement,
    )
    from kdharness.harness.stats.inference import (
        Difference,
        holm,
        paired_difference,
        ratio_interval,
    )
    from kdharness.harness.stats.regression import Line, fit_line
    from kdharness.harness.stats.stratified import label_shares, strata_by
    from kdharness.harness.stats.two_way import (
        Effect,
        drawn_effect,
        paired_effect,
        rank_correlation,
        two_way_p,
    )

__all__ = [
    "Difference",
    "Effect",
    "Line",
    "Question",
    "corrected_mean",
    "drawn_effect",
    "fit_line",
    "holm",
    "label_shares",
    "paired_difference",
    "paired_effect",
    "question_weights",
    "rank_correlation",
    "rater_agreement",
    "ratio_interval",
    "strata_by",
    "two_way_p",
    "verdict_at",
]


if not TYPE_CHECKING:  # else a type checker would take any name for one of this package
    __getattr__ = lazy_names(
        __name__,
        {
            "kdharness.harness.stats.stratified": ("label_shares", "strata_by"),
            "kdharness.harness.stats.corrected": (
                "Question",
                "corrected_mean",
                "question_weights",
                "rater_agreement",
            ),
            "kdharness.harness.stats.inference": (
                "Difference",
                "holm",
                "paired_difference",
                "ratio_interval",
            ),
            "kdharness.harness.stats.answer": ("verdict_at",),
            "kdharness.harness.stats.regression": ("Line", "fit_line"),
            "kdharness.harness.stats.two_way": (
                "Effect",
                "drawn_effect",
                "paired_effect",
                "rank_correlation",
                "two_way_p",
            ),
        },
    )
