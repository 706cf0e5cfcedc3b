"""How answers are judged: benchmarks, engines, scoring, audits.

For authors of a benchmark or an engine. The names are imported lazily.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from kdharness.harness.util.lazy import lazy_names

if TYPE_CHECKING:
    from kdharness.harness.protocols import Engine, Probe
    from kdharness.harness.stats.rows import Row, ScoreContext
    from kdharness.harness.types import (
        Answer,
        GenerationRequest,
        Item,
        JudgeCall,
        Judgment,
        JudgmentStatus,
        MetricValue,
        Reply,
        Verdict,
    )
    from kdharness.judges.benchmarks.base import Benchmark, fill, read_jsonl, subset
    from kdharness.judges.benchmarks.domain import exact_judgment
    from kdharness.judges.scoring.metric_values import by_category, measure
    from kdharness.judges.scoring.scorers import score_exact, score_ratings
    from kdharness.judges.scoring.verdicts import read_rating, read_winner


__all__ = [
    "Answer",
    "Benchmark",
    "Engine",
    "GenerationRequest",
    "Item",
    "JudgeCall",
    "Judgment",
    "JudgmentStatus",
    "MetricValue",
    "Probe",
    "Reply",
    "Row",
    "ScoreContext",
    "Verdict",
    "by_category",
    "exact_judgment",
    "fill",
    "measure",
    "read_jsonl",
    "read_rating",
    "read_winner",
    "score_exact",
    "score_ratings",
    "subset",
]


if not TYPE_CHECKING:  # else a type checker would take any name for one of this package
    __getattr__ = lazy_names(
        __name__,
        {
            "kdharness.harness.protocols": ("Engine", "Probe"),
            "kdharness.harness.stats.rows": ("Row", "ScoreContext"),
            "kdharness.harness.types": (
                "Answer",
                "GenerationRequest",
                "Item",
                "JudgeCall",
                "Judgment",
                "JudgmentStatus",
                "MetricValue",
                "Reply",
                "Verdict",
            ),
            "kdharness.judges.benchmarks.base": ("Benchmark", "fill", "read_jsonl", "subset"),
            "kdharness.judges.benchmarks.domain": ("exact_judgment",),
            "kdharness.judges.scoring.metric_values": ("by_category", "measure"),
            "kdharness.judges.scoring.scorers": ("score_exact", "score_ratings"),
            "kdharness.judges.scoring.verdicts": ("read_rating", "read_winner"),
        },
    )
