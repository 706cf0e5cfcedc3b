"""Scores published in papers."""

from __future__ import annotations

from kdharness.harness.analysis.published import PAPER_ROWS, paper_scores


def test_published_table_is_complete() -> None:
    assert len(PAPER_ROWS) == 16
    best = max((s for s in paper_scores() if s.bench == "mt-bench"), key=lambda s: s.value or 0)
    assert (best.checkpoint, best.value) == ("GPT-4", 8.99)
