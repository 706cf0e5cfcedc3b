"""The matrix of a report: checkpoints by primary scores, with interval bars in the cells."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence

from kdharness.harness.analysis.board import (
    MARKS,
    BoardColumn,
    difference_mark,
    flag_marks,
    make_board,
)
from kdharness.harness.analysis.metrics import is_lower_better
from kdharness.harness.reports.blocks import (
    Block,
    Heading,
    Matrix,
    MatrixCell,
    MatrixColumn,
    MatrixRow,
    Paragraph,
    number,
)
from kdharness.harness.types import Score
from kdharness.harness.util.ticks import share_of_axis


def matrix_section(
    scores: Sequence[Score], reference: str | None, headlines: Mapping[str, str]
) -> Iterator[Block]:
    """Show every checkpoint's primary scores side by side.

    Args:
        scores: the leaderboard.
        reference: the checkpoint that marks compare with.
        headlines: benchmark -> its own headline metric.
    """
    yield Heading("Scores")
    board = make_board(scores, headlines=headlines, reference=reference)
    if not board.columns:
        yield Paragraph("No scores yet.")
        return
    rows = tuple(
        MatrixRow(name, tuple(_cell(column, name, board.reference) for column in board.columns))
        for name in board.checkpoints
    )
    used = {mark for row in rows for cell in row.cells if cell for mark in cell.mark}
    yield Matrix(
        tuple(_column(column) for column in board.columns),
        rows,
        "Primary scores with 95 % intervals over questions; each bar spans its column",
        board.reference,
        tuple(f"{mark} {text}" for mark, text in MARKS.items() if mark in used),
    )


def _column(column: BoardColumn) -> MatrixColumn:
    lower = " (lower is better)" if is_lower_better(column.metric) else ""
    judge = "" if column.judge == "exact" else f", {column.judge}"
    variant = f", {column.variant}" if column.variant else ""
    title = f"{column.bench} {column.metric}{lower}"
    return MatrixColumn(title, f"{column.count_text}{judge}{variant}", column.is_doubtful)


def _cell(column: BoardColumn, name: str, reference: str | None) -> MatrixCell | None:
    score = column.scores.get(name)
    if score is None or score.value is None:
        return None
    mark = difference_mark(column, name, reference) + flag_marks(score)
    mark = " ".join(filter(None, (mark, column.shortfall(score))))
    if score.ci_low is None or score.ci_high is None:
        return MatrixCell(number(score.value), mark=mark)
    known = [s for s in column.scores.values() if s.value is not None]
    ends = [end for s in known for end in (s.value, s.ci_low, s.ci_high) if end is not None]
    ends = [end for end in ends if math.isfinite(end)] or [0.0]

    def place(value: float) -> float:
        return 100 * share_of_axis(value, min(ends), max(ends))

    return MatrixCell(
        number(score.value),
        f"{number(score.ci_low)} to {number(score.ci_high)}",
        mark,
        (place(score.ci_low), place(score.ci_high)),
        place(score.value),
    )
