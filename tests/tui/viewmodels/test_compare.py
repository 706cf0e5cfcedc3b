"""Comparison of checkpoints, and word differences between answers."""

from __future__ import annotations

from kdharness.harness.analysis.side_by_side import flips
from kdharness.harness.paths import Paths
from kdharness.harness.store import Store
from kdharness.tui.viewmodels.compare import load
from kdharness.tui.viewmodels.transcripts import marked_lines

# ---------------------------------------------------------------- comparing


def test_differences_are_computed_over_paired_items(filled: Paths) -> None:
    with Store(filled.store) as store:
        view = load(store, filled, ["sft", "kd", "expert"])
    lines = {(line.bench, line.metric): line.others for line in view.lines}
    loss = lines["heldout", "domain_loss"]
    assert loss["expert"].verdict == "better" and loss["expert"].gap.high < 0
    assert loss["kd"].p_holm >= loss["kd"].gap.p
    assert lines["mt-bench", "score"]["kd"].gap.n == 7  # q6 of sft is unreadable
    flip_rows = flips(view.sides[0].table, view.sides[2].table)
    assert flip_rows and all(f.bench != "heldout" for f in flip_rows)
    assert [f.flipped for f in flip_rows] == sorted((f.flipped for f in flip_rows), reverse=True)


# ---------------------------------------------------------------- text


def test_different_words_are_marked() -> None:
    line = marked_lines("the cat sat", "the dog sat")[0]
    assert [text for text, role in line if role == "accent"] == ["cat"]
