"""The leaderboard command: side by side in the terminal's width, rows with --long."""

from __future__ import annotations

import pytest

from kdharness.harness.paths import Paths
from kdharness.harness.store import Store
from support.commands import CommandLine
from support.scored_store import lineage, verdict

LONG = "rank  checkpoint  method  bench"


@pytest.fixture
def scored(paths: Paths) -> None:
    """Store a lineage with scores on two benchmarks."""
    with Store(paths.store) as store:
        lineage(store)
        for name, right in (("kd", 3), ("expert", 19), ("dae", 17)):
            for bench in ("shop", "mine"):
                store.add_judgments(
                    verdict(name, n, float(n < right), bench=bench) for n in range(20)
                )
            store.add_judgments(verdict(name, n, 1.0, bench="few") for n in range(3))


@pytest.mark.usefixtures("scored")
def test_checkpoints_are_rows_and_benchmarks_columns(
    kd: CommandLine, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", "200")
    code, out, err = kd("leaderboard")
    lines = out.splitlines()
    assert code == 0 and lines[0].split() == ["mine", "shop", "few"]
    assert lines[1].split() == ["score", "score", "score"]
    assert "".join(lines[2].split()) == "checkpointn20n20n3"
    assert [line.split()[0] for line in lines[3:]] == ["expert", "dae", "kd"]
    # The reference is that of the newest DAE run.
    assert lines[3].count("▲") == 2 and "▲" not in lines[5] and "reference: kd" in err


@pytest.mark.usefixtures("scored")
def test_a_score_of_fewer_items_says_so(
    paths: Paths, kd: CommandLine, monkeypatch: pytest.MonkeyPatch
) -> None:
    """An evaluation that is still running is not the best checkpoint."""
    monkeypatch.setenv("COLUMNS", "200")
    with Store(paths.store) as store:
        store.add_judgments(verdict("wise", n, 1.0, bench="shop") for n in range(2))
    lines = kd.ok("leaderboard").splitlines()
    assert "n 2–20" in lines[2]
    counts = {line.split()[0]: line.count("n 2") for line in lines[3:]}
    assert counts == {"wise": 1, "expert": 0, "dae": 0, "kd": 0}


@pytest.mark.usefixtures("scored")
@pytest.mark.parametrize("width", [40, 60, 80])
def test_columns_that_do_not_fit_follow_below(
    width: int, kd: CommandLine, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", str(width))
    out = kd.ok("leaderboard")
    assert max(map(len, out.splitlines())) <= width
    assert sum(line.split().count("shop") for line in out.splitlines()) == 1
    assert out.count("expert ") == out.count("checkpoint")


@pytest.mark.usefixtures("scored")
def test_rows_with_long_with_all_and_in_other_formats(kd: CommandLine) -> None:
    for option in ("--long", "--all"):
        out = kd.ok("leaderboard", option)
        assert out.startswith(LONG) and len(out.splitlines()) > 9
    assert kd.ok("leaderboard", "--format", "csv").startswith("checkpoint,method,bench,metric,")
    assert len(kd.json("leaderboard", "--bench", "shop", "--metric", "score")) == 3


@pytest.mark.usefixtures("scored")
def test_another_reference_and_an_unknown_one(kd: CommandLine) -> None:
    code, out, err = kd("leaderboard", "--reference", "expert")
    assert code == 0 and "reference: expert" not in out and "▼" in out
    code, _, err = kd("leaderboard", "--reference", "exprt")
    assert code == 2 and "no checkpoint 'exprt'; did you mean expert?" in err
