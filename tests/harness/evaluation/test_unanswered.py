"""Missing answers count as failed judgments, in pairwise benchmarks as well."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any

import pytest

from kdharness.harness.analysis.leaderboard import leaderboard
from kdharness.harness.config.evaluation import EvalConfig
from kdharness.harness.evaluation import pipeline
from kdharness.harness.paths import Paths
from kdharness.harness.protocols import NullReporter
from kdharness.harness.store import Store
from kdharness.harness.types import Answer, Checkpoint, Finish, Score
from support.benchmark_files import write_assets
from support.loopback import Loopback

ITEMS = [str(n) for n in range(81, 89)]


@pytest.fixture
def store(paths: Paths) -> Iterator[Store]:
    write_assets(paths.home / "assets")
    with Store(paths.store) as opened:
        yield opened


def add_model(store: Store, name: str, items: Iterable[str], bench: str, turns: int = 2) -> None:
    """Store a model without weights that has answered `items`."""
    store.add_checkpoint(
        Checkpoint(id=f"id-{name}", name=name, method="import", path="", created=1.0)
    )
    store.add_answers(
        Answer(
            id=f"{name}/{bench}/{item}/{turn}",
            checkpoint=f"id-{name}",
            bench=bench,
            revision="",
            item=item,
            turn=turn,
            text=f"{name} answers {item}.",
            finish=Finish.STOP,
            prompt_hash="",
            settings="",
            created=1.0,
        )
        for item in items
        for turn in range(1, turns + 1)
    )


def evaluate(store: Store, paths: Paths, server: Loopback, **config: Any) -> dict[str, Any]:
    settings = EvalConfig(judge=[server.spec], timeout=1.0, **config)
    return pipeline.run(settings, paths, store, NullReporter())


def score_of(store: Store, paths: Paths, checkpoint: str, metric: str) -> Score:
    return next(
        score
        for score in leaderboard(store, paths)
        if (score.checkpoint, score.metric) == (checkpoint, metric)
    )


def test_missing_answers_of_the_model_are_failed_pairs(store: Store, paths: Paths) -> None:
    add_model(store, "half", ITEMS[:4], "mt-bench")
    add_model(store, "base", ITEMS, "mt-bench")
    with Loopback() as server:
        done = evaluate(
            store, paths, server, imported=["half"], benches=["mt-bench-pair"], baseline="base"
        )
    assert done["failed_judgments"] == 8
    for metric in ("win_rate", "win_rate_adjusted", "order_flip_rate"):
        score = score_of(store, paths, "half", metric)
        assert (score.n, score.n_failed) == (8, 8)


def test_missing_answers_of_the_baseline_are_failed_pairs(store: Store, paths: Paths) -> None:
    add_model(store, "whole", ITEMS, "mt-bench")
    add_model(store, "base", ITEMS[:6], "mt-bench")
    with Loopback() as server:
        evaluate(
            store, paths, server, imported=["whole"], benches=["mt-bench-pair"], baseline="base"
        )
    score = score_of(store, paths, "whole", "win_rate")
    assert (score.n, score.n_failed) == (12, 4)


def test_failure_is_cleared_when_the_answer_is_added_later(store: Store, paths: Paths) -> None:
    config: dict[str, Any] = {"benches": ["mt-bench-pair"], "baseline": "all"}
    add_model(store, "half", ITEMS[:4], "mt-bench")
    add_model(store, "whole", ITEMS, "mt-bench")
    with Loopback() as server:
        evaluate(store, paths, server, imported=["half", "whole"], **config)
        score = score_of(store, paths, "half", "win_rate")
        assert (score.n, score.n_failed) == (8, 8)
        add_model(store, "half", ITEMS[4:], "mt-bench")
        evaluate(store, paths, server, imported=["half", "whole"], **config)
    score = score_of(store, paths, "half", "win_rate")
    assert (score.n, score.n_failed) == (16, 0)


def test_benchmark_file_with_ratings_and_pairs(
    store: Store, paths: Paths, write_jsonl: Callable[[str, list[Any]], Path]
) -> None:
    """A rating covers one answer and is requested once, independent of the pairs."""
    rows = [{"id": f"r{n}", "prompt": f"Rate {n}", "metric": "rating"} for n in range(6)]
    rows += [{"id": f"p{n}", "prompt": f"Compare {n}", "metric": "pair"} for n in range(6)]
    path = str(write_jsonl("mine.jsonl", rows))
    names = [str(row["id"]) for row in rows]
    add_model(store, "a", [*names[1:6], *names[8:]], "mine", turns=1)
    add_model(store, "b", names, "mine", turns=1)
    add_model(store, "c", names, "mine", turns=1)
    with Loopback() as server:
        done = evaluate(
            store, paths, server, imported=["a", "b", "c"], benches=[path], baseline="all"
        )
        ratings, pairs = 5 + 6 + 6, 2 * (4 + 4 + 6)
        assert server.calls == ratings + pairs
    # One rating of a; two pairs of a against b and two against c.
    assert done["failed_judgments"] == 1 + 2 + 2


def test_baseline_of_a_benchmark_file_is_rated_as_well(
    store: Store, paths: Paths, write_jsonl: Callable[[str, list[Any]], Path]
) -> None:
    rows = [{"id": f"r{n}", "prompt": f"Rate {n}", "metric": "rating"} for n in range(5)]
    rows += [{"id": "p", "prompt": "Compare", "metric": "pair"}]
    path = str(write_jsonl("mine.jsonl", rows))
    names = [str(row["id"]) for row in rows]
    for name in ("a", "base"):
        add_model(store, name, names, "mine", turns=1)
    with Loopback() as server:
        evaluate(store, paths, server, imported=["a", "base"], benches=[path], baseline="base")
        assert server.calls == 5 + 5 + 2
