"""Scores computed by several processes are those of one."""

from __future__ import annotations

import random
import sys
from pathlib import Path

import pytest

from kdharness.harness.analysis import figures
from kdharness.harness.analysis.leaderboard import leaderboard
from kdharness.harness.analysis.scorebook import Group
from kdharness.harness.paths import Paths
from kdharness.harness.registry import SCORERS
from kdharness.harness.store import Store
from kdharness.harness.types import Score
from support.scored_store import add_checkpoint, verdict

BENCHES = ("shop", "heldout", "my-file")


@pytest.fixture
def scored(paths: Paths) -> Paths:
    draws = random.Random(0)
    with Store(paths.store) as store:
        for name in ("a", "b", "c"):
            add_checkpoint(store, name)
            for bench in BENCHES:
                metric = "general_loss" if bench == "heldout" else "accuracy"
                store.add_judgments(
                    verdict(name, item, draws.random(), bench=bench, metric=metric)
                    for item in range(12)
                )
    return paths


def cold(paths: Paths) -> list[Score]:
    with Store(paths.store) as store:
        store.db.execute("DELETE FROM score_cache")
        store.db.conn.commit()
        return leaderboard(store, paths)


@pytest.fixture
def shared(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(figures, "MANY", 30)
    monkeypatch.setattr(figures, "usable_cores", lambda: 3)


@pytest.mark.slow
def test_several_processes_give_the_same_scores(
    scored: Paths, shared: None, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    # Modules of the user's working folder are no modules of ours.
    (tmp_path / "random.py").write_text("raise SystemExit(1)\n")
    monkeypatch.chdir(tmp_path)
    helpers = []

    class Counted(figures._Helper):
        def result(self) -> dict[Group, list[figures.MetricValue]] | None:
            found = super().result()
            helpers.append(found is not None)
            return found

    monkeypatch.setattr(figures, "_Helper", Counted)
    together = cold(scored)
    assert helpers == [True, True]
    monkeypatch.setattr(figures, "MANY", 10**9)
    assert together == cold(scored)
    assert len(helpers) == 2
    assert {score.bench for score in together} == set(BENCHES)


@pytest.mark.parametrize(
    "interpreter", ["/nowhere/python", "/bin/false", "/bin/true"], ids=["none", "fails", "silent"]
)
def test_what_a_process_could_not_do_is_done_here(
    scored: Paths, shared: None, monkeypatch: pytest.MonkeyPatch, interpreter: str
) -> None:
    alone = cold(scored)
    monkeypatch.setattr(sys, "executable", interpreter)
    assert cold(scored) == alone


def test_shares_are_even_and_foreign_scorers_stay(monkeypatch: pytest.MonkeyPatch) -> None:
    groups = [Group(f"c{n}", "shop", "r", "exact", size) for n, size in enumerate([9, 5, 4, 3, 3])]
    sizes = [sum(g.changes for g in share) for share in figures.shares(groups, {}, 2)]
    assert sorted(sizes) == [12, 12]
    assert figures.shares([], {}, 1) == [[]]
    monkeypatch.setitem(SCORERS, "theirs", "their.module:score")
    foreign = [Group("c", "theirs", "r", "exact", 5), Group("d", "bench", "r", "exact", 5)]
    notes = {("", "bench", "r"): {"scorer": "theirs"}}
    for share in figures.shares([*groups, *foreign], notes, 3)[1:]:
        assert not {group.bench for group in share} & {"theirs", "bench"}
