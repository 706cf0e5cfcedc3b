"""The records of the project, as frozen dataclasses.

    RunConfig -> Run -> Checkpoint -> Answer -> Judgment -> Score

Everything up to `Judgment` is stored. A `Score` is derived, so that a better formula needs no call.
The names below are imported on first use: the app's first paint needs runs alone.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from kdharness.harness.util.lazy import lazy_names

if TYPE_CHECKING:
    from kdharness.harness.types.judging import (
        IGNORE_INDEX,
        GenerationRequest,
        Item,
        JudgeCall,
        Message,
        Reply,
        Verdict,
    )
    from kdharness.harness.types.runs import (
        EvaluationResult,
        Method,
        Request,
        Run,
        RunInfo,
        RunStatus,
    )
    from kdharness.harness.types.scores import (
        Answer,
        Checkpoint,
        CheckpointInfo,
        Finish,
        Judgment,
        JudgmentInfo,
        JudgmentStatus,
        MetricValue,
        Score,
        digest,
    )

__all__ = [
    "IGNORE_INDEX",
    "Answer",
    "Checkpoint",
    "CheckpointInfo",
    "EvaluationResult",
    "Finish",
    "GenerationRequest",
    "Item",
    "JudgeCall",
    "Judgment",
    "JudgmentInfo",
    "JudgmentStatus",
    "Message",
    "Method",
    "MetricValue",
    "Reply",
    "Request",
    "Run",
    "RunInfo",
    "RunStatus",
    "Score",
    "Verdict",
    "digest",
]


if not TYPE_CHECKING:  # else a type checker would take any name for one of this package
    __getattr__ = lazy_names(
        __name__,
        {
            "kdharness.harness.types.judging": (
                "GenerationRequest",
                "IGNORE_INDEX",
                "Item",
                "JudgeCall",
                "Message",
                "Reply",
                "Verdict",
            ),
            "kdharness.harness.types.runs": (
                "EvaluationResult",
                "Method",
                "Request",
                "Run",
                "RunInfo",
                "RunStatus",
            ),
            "kdharness.harness.types.scores": (
                "Answer",
                "Checkpoint",
                "CheckpointInfo",
                "Finish",
                "Judgment",
                "JudgmentInfo",
                "JudgmentStatus",
                "MetricValue",
                "Score",
                "digest",
            ),
        },
    )
