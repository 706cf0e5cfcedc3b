"""A run's log, and its error in one cell."""

from __future__ import annotations

import pytest

from kdharness.tui.viewmodels.rows import reason_of
from kdharness.tui.viewmodels.run import without_updates


def test_a_progress_bar_is_one_line_in_its_last_state() -> None:
    lines = [
        "Converting tensors:   0%|          | 0/59",
        "Converting tensors:  59%|#####     | 35/59",
        "Converting tensors: 100%|##########| 59/59",
        "loaded",
        "  5%|5         | 1/20",
        " 10%|#         | 2/20",
        "Converting tensors: 100%|##########| 59/59",
    ]
    assert without_updates(lines) == [lines[2], "loaded", lines[5], lines[6]]


def test_nested_bars_have_one_line_each() -> None:
    """As in a public report of a terminal log that did not group them."""
    lines = [f"{name}: {n}%|#| {n}/9" for n in range(1, 9) for name in ("epochs", "batches")]
    assert without_updates(lines) == lines[-2:]


@pytest.mark.parametrize(
    ("error", "shown"),
    [
        ("/home/me/work/data/bad.jsonl:2: not JSON", "bad.jsonl:2: not JSON"),
        ("~/data/bad.jsonl: empty", "bad.jsonl: empty"),
        ("out of memory", "out of memory"),
        ("a/b is no number", "a/b is no number"),
        ("", ""),
    ],
)
def test_a_long_path_does_not_push_the_reason_out_of_a_cell(error: str, shown: str) -> None:
    assert reason_of(error) == shown


@pytest.mark.parametrize(
    ("error", "shown"),
    [
        ("/home/me/work/data/bad.jsonl:2: not JSON", "not JSON"),
        ("data.jsonl, line 3: no field text", "no field text"),
        ("config: ~/a/my.yaml: trainer.epochs: too small", "trainer.epochs: too small"),
        ("openai:gpt-4.1: quota exceeded", "openai:gpt-4.1: quota exceeded"),
        ("/home/me/work/model.bin", "model.bin"),
        ("bad.py:3: x", "bad.py:3: x"),
        ("out of memory", "out of memory"),
    ],
)
def test_without_room_the_reason_comes_before_the_file(error: str, shown: str) -> None:
    assert reason_of(error, 11) == shown
