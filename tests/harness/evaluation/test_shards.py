"""A benchmark evaluated in shards on independent machines merges into the full result."""

from __future__ import annotations

from pathlib import Path

import pytest

from kdharness.harness.analysis.leaderboard import leaderboard
from kdharness.harness.config.evaluation import EvalConfig, in_shard
from kdharness.harness.errors import ConfigError
from kdharness.harness.evaluation import pipeline
from kdharness.harness.maintenance.merge import merge
from kdharness.harness.paths import Paths
from kdharness.harness.protocols import NullReporter
from kdharness.harness.store import Store
from support.benchmark_files import write_mt_bench
from support.loopback import Loopback
from support.store_rows import add_mt_bench_answers

N_ITEMS = 4 * 12


def make_home(folder: Path) -> Paths:
    """Create a home with the benchmark and one model's answers."""
    paths = Paths(folder)
    write_mt_bench(paths.assets / "mt-bench", per_category=12)
    with Store(paths.store) as store:
        add_mt_bench_answers(store, N_ITEMS, "answer {}.{}".format)
    return paths


def judge(paths: Paths, spec: str, shard: str | None = None) -> dict[str, object]:
    config = EvalConfig(imported=["a"], benches=["mt-bench"], judge=[spec], shard=shard)
    with Store(paths.store) as store:
        return pipeline.run(config, paths, store, NullReporter())


def score_rows(paths: Paths) -> list[tuple[object, ...]]:
    with Store(paths.store) as store:
        return [
            (s.bench, s.metric, s.value, s.ci_low, s.ci_high, s.n, s.n_failed)
            for s in leaderboard(store)
        ]


@pytest.mark.slow
def test_shards_on_three_machines_merge_into_the_full_result(tmp_path: Path) -> None:
    full = make_home(tmp_path / "whole")
    with Loopback() as server:
        judge(full, server.spec)
        full_calls = server.calls
        homes = [make_home(tmp_path / f"m{n}") for n in (1, 2, 3)]
        for number, paths in enumerate(homes, 1):
            judge(paths, server.spec, f"{number}/3")
        # Together the machines made as many calls as a single one.
        assert server.calls == 2 * full_calls == 4 * N_ITEMS
        home = homes[0]
        for _ in range(2):
            with Store(home.store) as store:
                for other in homes[1:]:
                    merge(store, other.store)
        assert score_rows(home) == score_rows(full) and score_rows(home)
        # Nothing is missing, so no further calls are made.
        judge(home, server.spec)
        assert server.calls == 2 * full_calls


@pytest.mark.slow
def test_shards_in_one_home_add_up_to_the_full_result(tmp_path: Path) -> None:
    full, shared = make_home(tmp_path / "whole"), make_home(tmp_path / "shared")
    with Loopback() as server:
        judge(full, server.spec)
        for shard in ("2/2", "1/2", "1/2"):
            judge(shared, server.spec, shard)
        assert score_rows(shared) == score_rows(full)
        assert server.calls == 2 * 2 * N_ITEMS


def test_shard_judges_only_its_items_without_failures_for_the_rest(tmp_path: Path) -> None:
    paths = make_home(tmp_path / "m")
    with Loopback() as server:
        judge(paths, server.spec, "1/3")
    with Store(paths.store) as store:
        items = {j.item for j in store.judgments()}
        assert not [j for j in store.judgments() if j.value is None]
    assert items == {str(n) for n in range(81, 81 + N_ITEMS) if in_shard("1/3", str(n))}
    assert N_ITEMS / 6 < len(items) < N_ITEMS / 2


@pytest.mark.parametrize("parts", [1, 2, 7])
def test_every_item_is_in_exactly_one_shard(parts: int) -> None:
    for item in map(str, range(500)):
        assert sum(in_shard(f"{part}/{parts}", item) for part in range(1, parts + 1)) == 1


@pytest.mark.parametrize("shard", ["0/2", "3/2", "1", "a/b", "1/0", "1/2/3"])
def test_invalid_shards_are_rejected(shard: str) -> None:
    from kdharness.harness.config.files import make_eval_config

    with pytest.raises(ConfigError, match=r"shard|part|pattern"):
        make_eval_config(imported=["a"], shard=shard)


def test_dry_run_of_a_shard(tmp_path: Path) -> None:
    from kdharness.harness.evaluation.dry_run import plan
    from kdharness.harness.evaluation.pipeline import load_benches

    paths = make_home(tmp_path / "m")
    calls = []
    with Loopback() as server, Store(paths.store) as store:
        for shard in (None, "1/2", "2/2"):
            config = EvalConfig(
                imported=["a"], benches=["mt-bench"], judge=[server.spec], shard=shard
            )
            calls.append(
                sum(row["calls"] for row in plan(config, paths, store, load_benches(config, paths)))
            )
    assert calls[0] == calls[1] + calls[2] == 2 * N_ITEMS and min(calls) > 0
