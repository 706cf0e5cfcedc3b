"""What a pane shows of a checkpoint: the interval of every score, on each score's own scale."""

from __future__ import annotations

from collections.abc import Mapping

from kdharness.harness.util.text import figure, safe_text
from kdharness.tui.viewmodels.drawings import Block, IntervalLine
from kdharness.tui.viewmodels.leaderboard import Board, Figure, interval_width, marks_of
from kdharness.tui.viewmodels.rows import Line, Row
from kdharness.tui.viewmodels.selection import shortened

NAME = 30
"""Cells of a score's name."""


def checkpoint_overview(board: Board, row: Row, colours: Mapping[str, str]) -> list[Block]:
    """Return the intervals of all scores of a checkpoint, in the order of the board.

    Args:
        colours: run -> its colour role.
    """
    scored = [column for column in board.figures if column.key in row["scores"]]
    benches = dict.fromkeys(column.bench for column in scored)
    facts = [str(row["method"]), f"run {row['run']}" if row["run"] else "not made by a run here"]
    facts.append(f"{len(scored)} of {len(board.figures)} scores, on {', '.join(benches)}")
    head: Line = [
        (safe_text(str(row["id"]), 80), "strong"),
        (safe_text(f"  {' · '.join(facts)}", 300), "dim"),
    ]
    role = colours.get(str(row["run"]), "series-1")
    return [head, *(_line(board, column, row, role) for column in scored)]


def _line(board: Board, column: Figure, row: Row, role: str) -> Block:
    score = row["scores"][column.key]
    name = shortened(f"{column.bench} {'· ' if column.is_category else ''}{column.title}", NAME)
    arrow = "↓" if column.lower_is_better else " "
    head: Line = [
        (f"{name:<{NAME}}{arrow} ", ""),
        (f"{figure(score.value):>7} ", "strong"),
        (f"{interval_width(score):<9}", "dim"),
    ]
    judge = "" if score.judge == "exact" else shortened(score.judge, 24)
    failed = f", {score.n_failed} failed" if score.n_failed else ""
    marks = marks_of(score, column.key in row["close"])
    tail: Line = [(f"{marks:<5}", "warn"), (f"n {score.n}{failed}", "dim")]
    if score.value is None:
        return [*head, (" ", ""), *tail, (f" {judge}", "dim")]
    low = score.value if score.ci_low is None else score.ci_low
    high = score.value if score.ci_high is None else score.ci_high
    ends = low, score.value, high
    return IntervalLine(head, ends, *board.spread(column.key), tail, role, judge)
