"""Figures that papers state."""

from __future__ import annotations

from kdharness.harness.analysis.published import PAPER_ROWS, paper_scores


def test_the_papers_table_is_whole() -> None:
    assert len(PAPER_ROWS) == 16
    best = max((s for s in paper_scores() if s.bench == "mt-bench"), key=lambda s: s.value or 0)
    assert (best.checkpoint, best.value) == ("GPT-4", 8.99)
