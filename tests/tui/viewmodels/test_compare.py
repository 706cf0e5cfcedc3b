"""Answers side by side."""

from __future__ import annotations

from kdharness.harness.analysis.side_by_side import flips
from kdharness.harness.paths import Paths
from kdharness.harness.store import Store
from kdharness.tui.viewmodels.compare import load
from kdharness.tui.viewmodels.transcripts import marked_lines

# ---------------------------------------------------------------- comparing


def test_differences_pair_items_and_leave_out_what_cannot_be_paired(filled: Paths) -> None:
    with Store(filled.store) as store:
        found = load(store, filled, ["sft", "kd", "expert"])
    lines = {(line.bench, line.metric): line.others for line in found.lines}
    loss = lines["heldout", "domain_loss"]
    assert loss["expert"].verdict == "better" and loss["expert"].gap.high < 0
    assert loss["kd"].p_holm >= loss["kd"].gap.p
    assert lines["mt-bench", "score"]["kd"].gap.n == 7  # q6 of sft cannot be read
    moved = flips(found.sides[0].table, found.sides[2].table)
    assert moved and all(f.bench != "heldout" for f in moved)
    assert [f.flipped for f in moved] == sorted((f.flipped for f in moved), reverse=True)


# ---------------------------------------------------------------- text


def test_differing_words_are_marked() -> None:
    line = marked_lines("the cat sat", "the dog sat")[0]
    assert [text for text, role in line if role == "accent"] == ["cat"]
