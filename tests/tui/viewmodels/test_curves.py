"""Downsampling and smoothing of growing curves."""

from __future__ import annotations

import pytest

from kdharness.tui.viewmodels.curves import CurveBook


def test_long_curve_is_downsampled_and_keeps_its_spike() -> None:
    book = CurveBook()
    for start in range(0, 60_000, 7_000):
        steps = range(start, min(start + 7_000, 60_000))
        book.add("r", "loss", [(float(i), 99.0 if i == 31_415 else 1.0) for i in steps])
        book.ready("r", "loss", None, 0.0, 100)
    drawn = book.ready("r", "loss", None, 0.0, 100)
    assert len(drawn) <= 400 and (31_415.0, 99.0) in drawn and drawn[-1] == (59_999.0, 1.0)
    whole = book.ready("r", "loss", None, 0.9, 100)
    assert 1.0 < max(y for _, y in whole) < 20
    part = book.ready("r", "loss", (31_000.0, 32_000.0), 0.9, 100)
    assert max(y for _, y in part) == pytest.approx(max(y for _, y in whole), rel=1e-3)
    assert part[0][0] >= 30_999 and part[-1][0] <= 32_001


def test_ends_of_an_interval_belong_to_their_curve() -> None:
    book = CurveBook()
    for name, value in (("shop/score", 0.5), ("shop/score:low", 0.2), ("shop/score:high", 0.8)):
        book.add("r", name, [(0.0, value)])
    book.add("r", "loss", [(0.0, 1.0)])
    assert book.names("r") == ["loss", "shop/score"]
    assert book.interval("r", "shop/score") == (0.2, 0.8)
    assert book.interval("r", "loss") is None


def test_the_loss_comes_first_then_the_primary_metrics() -> None:
    book = CurveBook()
    for name in ("kl", "general_loss", "loss"):
        book.add("run", name, [(1.0, 2.0)])
    assert book.names("run", ["general_loss", "score"]) == ["loss", "general_loss", "kl"]
    assert book.names("run") == ["loss", "kl", "general_loss"]
