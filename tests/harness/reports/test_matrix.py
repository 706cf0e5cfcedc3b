"""The matrix of a report: checkpoints by primary scores."""

from __future__ import annotations

import math

import pytest

from kdharness.harness.reports.blocks import Matrix
from kdharness.harness.reports.matrix import matrix_section
from kdharness.harness.types import Score


def test_matrix_has_intervals_marks_and_doubtful_columns_last() -> None:
    def score(name: str, bench: str, value: float, reach: float, n: int, judge: str) -> Score:
        ends = value - reach, value + reach
        flags = () if judge == "exact" else ("judge:untested",)
        return Score(name, None, "sft", bench, "score", value, *ends, n, 0, judge, flags)

    scores = [
        score("base", "a", 0.5, 0.1, 40, "openai:m"),
        score("base", "shop", 0.2, 0.1, 40, "exact"),
        score("new", "shop", 0.8, 0.1, 40, "exact"),
        score("old", "shop", 0.3, 0.1, 40, "exact"),
    ]
    _, matrix = matrix_section(scores, "base", {})
    assert isinstance(matrix, Matrix)
    assert [column.title for column in matrix.columns] == ["shop score", "a score"]
    assert [column.pale for column in matrix.columns] == [False, True]
    cells = {row.name: row.cells for row in matrix.rows}
    assert list(cells) == ["new", "old", "base"]
    new, old, base = (cells[name][0] for name in ("new", "old", "base"))
    assert new and old and base
    assert (new.mark, old.mark, base.mark) == ("▲", "", "")
    assert (new.value, new.interval) == ("0.8", "0.7 to 0.9")
    # The bars span the column: 0.1 is at the left end, 0.9 at the right.
    assert base.ends == pytest.approx((0.0, 25.0)) and base.place == pytest.approx(12.5)
    assert new.ends == pytest.approx((75.0, 100.0))
    assert cells["new"][1] is None
    assert any(note.startswith("▲ better") for note in matrix.notes)


def test_an_infinite_score_leaves_the_bars_of_the_others() -> None:
    values = (("base", 0.2, 0.1, 0.3), ("new", math.inf, 0.3, math.inf), ("bad", *[-math.inf] * 3))
    scores = [
        Score(name, None, "sft", "shop", "score", value, low, high, 40, 0, "exact", ())
        for name, value, low, high in values
    ]
    _, matrix = matrix_section(scores, "base", {})
    assert isinstance(matrix, Matrix)
    cells = {row.name: row.cells[0] for row in matrix.rows}
    base, new, bad = (cells[name] for name in ("base", "new", "bad"))
    assert base and base.ends == pytest.approx((0.0, 100.0)) and base.place == pytest.approx(50)
    assert new and new.place == 100.0 and bad and bad.ends == (0.0, 0.0)
