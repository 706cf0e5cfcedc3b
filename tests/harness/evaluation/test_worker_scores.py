"""What a worker leaves behind for the leaderboard."""

from __future__ import annotations

from pathlib import Path

import pytest

from kdharness.harness.analysis import scorebook
from kdharness.harness.analysis.leaderboard import leaderboard
from kdharness.harness.paths import Paths
from kdharness.harness.store import Store
from support.commands import CommandLine


@pytest.mark.slow
def test_scores_are_computed_by_the_time_an_evaluation_ends(
    kd: CommandLine, tiny_teacher: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A leaderboard of many checkpoints, with nothing computed yet, takes many seconds."""
    short = ["--bench", "shop", "--limit", "2", "--max-new-tokens", "4", "--device", "cpu"]
    kd.ok("eval", "--ckpt", str(tiny_teacher), *short)

    def computed(*_: object, **__: object) -> None:
        raise AssertionError("scores were computed again")

    monkeypatch.setattr(scorebook.ScoreCache, "put", computed)
    with Store(Paths(kd.home).store) as store:
        assert leaderboard(store, Paths(kd.home))
