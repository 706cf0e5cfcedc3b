"""The leaderboard: cache, flags, rank ranges, paired comparisons and panels."""

from __future__ import annotations

import random
import subprocess
import sys
from typing import Any

import pytest

from kdharness.harness.analysis.compare import compare_all
from kdharness.harness.analysis.leaderboard import leaderboard, rank_ranges, unresolved
from kdharness.harness.analysis.panels import agreement, merged
from kdharness.harness.analysis.published import alpaca_scores, paper_scores
from kdharness.harness.errors import ConfigError
from kdharness.harness.paths import Paths
from kdharness.harness.stats.rows import counted_once, from_judgments
from kdharness.harness.store import Store
from kdharness.harness.types import Checkpoint, Judgment, JudgmentStatus, Score


def rating(checkpoint: str, item: int, value: float | None, **rest: Any) -> Judgment:
    fields: dict[str, Any] = {
        "turn": 1,
        "judge": "openai:x",
        "created": float(item),
        "bench": "mt-bench",
        "revision": "r",
        "metric": "rating",
        "category": "a" if item % 2 else "b",
    }
    fields.update(rest)
    status = JudgmentStatus.FAILED if value is None else JudgmentStatus.OK
    identity = f"{checkpoint}/{item}/{fields['turn']}/{fields['judge']}/{fields['created']}"
    return Judgment(
        id=f"{identity}/{fields['revision']}/{fields['metric']}",
        checkpoint=checkpoint,
        item=str(item),
        value=value,
        status=status,
        **fields,
    )


def add_rated(store: Store, spread: float = 1.0) -> None:
    """Add three checkpoints: on shared items b is half a point above a, and c three points."""
    rng = random.Random(1)
    for number, name in enumerate("abc"):
        store.add_checkpoint(
            Checkpoint(id=f"id-{name}", name=name, method="kd", path="", created=float(number))
        )
    for item in range(60):
        level = rng.uniform(2, 6.5)
        for name, bonus in (("a", 0.0), ("b", 0.5), ("c", 3.0)):
            value = min(10.0, max(1.0, level + bonus + rng.gauss(0, 0.3 * spread)))
            store.add_judgments([rating(f"id-{name}", item, value)])


def test_stale_score_cache_is_recomputed(store: Store) -> None:
    add_rated(store)
    first = leaderboard(store)
    assert leaderboard(store) == first
    assert len(store.cached_scores([c.id for c in store.checkpoints()])) == 3
    store.add_judgments([rating("id-a", 999, 10.0)])
    second = leaderboard(store)
    changed = {s.checkpoint for s, t in zip(first, second, strict=True) if s.value != t.value}
    assert changed == {"a"}
    store.db.execute("DELETE FROM score_cache")
    store.db.conn.commit()
    assert leaderboard(store) == second


def test_cached_leaderboard_does_not_import_numpy(store: Store, paths: Paths) -> None:
    add_rated(store)
    leaderboard(store, paths)
    script = (
        "import sys; from pathlib import Path\n"
        "from kdharness.harness.analysis.leaderboard import leaderboard\n"
        "from kdharness.harness.store import Store; from kdharness.harness.paths import Paths\n"
        "p = Paths(Path(sys.argv[1]))\n"
        "scores = leaderboard(Store(p.store), p)\n"
        "assert scores and 'numpy' not in sys.modules, 'numpy'"
    )
    subprocess.run([sys.executable, "-c", script, str(paths.home)], check=True)


def test_leaderboard_filters_by_checkpoint_and_benchmark(store: Store) -> None:
    add_rated(store)
    assert {s.checkpoint for s in leaderboard(store, checkpoints=["a", "id-b"])} == {"a", "b"}
    assert leaderboard(store, benches=["shop"]) == []


def test_newer_of_two_revisions_with_the_same_flags_is_shown(store: Store) -> None:
    add_rated(store)
    store.set_bench_note("mt-bench", "r", {"flags": [], "scorer": "mt-bench", "used": 1.0})
    store.set_bench_note("mt-bench", "s", {"flags": [], "scorer": "mt-bench", "used": 2.0})
    store.set_bench_note(
        "mt-bench", "t", {"flags": ["subset:1"], "scorer": "mt-bench", "used": 3.0}
    )
    store.add_judgments(
        [rating("id-a", 1, 9.0, revision="s"), rating("id-a", 1, 8.0, revision="t")]
    )
    shown = [
        (s.value, s.flags[0] if "subset:1" in s.flags else "")
        for s in leaderboard(store)
        if s.checkpoint == "a" and s.metric == "score"
    ]
    assert sorted(shown) == [(8.0, "subset:1"), (9.0, "")]


def test_overlapping_intervals_share_a_rank_range() -> None:
    def score(name: str, low: float, value: float, high: float, metric: str = "score") -> Score:
        return Score(name, None, "kd", "mt-bench", metric, value, low, high, 80, 0, "j")

    scores = [
        score("a", 6, 7, 8),
        score("b", 5.5, 6.5, 7.5),
        score("c", 1, 2, 3),
        score("d", 2.5, 3, 5),
    ]
    assert rank_ranges(scores) == ["1-2", "1-2", "3-4", "3-4"]
    losses = [
        score(s.checkpoint, s.ci_low or 0, s.value or 0, s.ci_high or 0, "general_loss")
        for s in scores
    ]
    assert rank_ranges(losses) == ["3-4", "3-4", "1-2", "1-2"]
    assert rank_ranges([score("a", 1, 2, 3), score("b", 4, 5, 6)]) == ["2", "1"]
    apart = [score("e", 8.5, 9, 9.5), score("f", 0.1, 0.2, 0.3)]
    assert unresolved([*scores, *apart]) == {(n, "mt-bench", "score", "j") for n in "abcd"}
    assert unresolved(apart) == set()


def test_paired_comparison_is_more_sensitive_than_overlapping_intervals(store: Store) -> None:
    add_rated(store)
    scores = {s.checkpoint: s for s in leaderboard(store) if s.metric == "score"}
    a, b = scores["a"], scores["b"]
    assert (a.ci_high or 0) > (b.ci_low or 0)
    comparisons = {(c.other, c.metric): c for c in compare_all(store, None, ["a", "b", "c"])}
    gap = comparisons["b", "score"]
    assert gap.verdict == "better" and gap.gap.low > 0.3 and gap.gap.n == 60
    assert gap.p_holm >= gap.gap.p and gap.gap.n_needed is not None and gap.gap.n_needed < 30
    assert comparisons["c", "score"].gap.value == pytest.approx(3, abs=0.35)
    reverse = {(c.other, c.metric): c for c in compare_all(store, None, ["b", "a"])}
    assert reverse["a", "score"].verdict == "worse"
    assert reverse["a", "score"].gap.value == pytest.approx(-gap.gap.value)
    assert ("b", "category:a") in comparisons
    with pytest.raises(ConfigError, match="nobody"):
        compare_all(store, None, ["a", "nobody"])
    with pytest.raises(ConfigError, match="two"):
        compare_all(store, None, ["a"])


def test_noisy_checkpoints_are_not_significantly_different(store: Store) -> None:
    add_rated(store, spread=20)
    for comparison in compare_all(store, None, ["a", "b"]):
        if comparison.metric.startswith("category"):
            assert comparison.verdict == "not told apart"


def test_each_item_counts_once_by_its_latest_successful_judgment() -> None:
    rows = from_judgments(
        [
            rating("c", 1, 3.0, created=1.0),
            rating("c", 1, 8.0, created=2.0),
            rating("c", 1, None, created=3.0),
            rating("c", 2, None, created=1.0),
            rating("c", 2, None, created=2.0),
        ]
    )
    assert [(r.item, r.value) for r in counted_once(rows)] == [("1", 8.0), ("2", None)]


def test_rows_are_ordered_by_item_not_by_judgment_time() -> None:
    rows = from_judgments([rating("c", item, 5.0) for item in (100, 9, 81, 10)])
    assert [row.item for row in counted_once(rows)] == ["9", "10", "81", "100"]


def test_panel_mean_median_and_majority() -> None:
    judges = {
        name: from_judgments([rating("c", item, value) for item, value in enumerate(values)])
        for name, values in (("x", (2, 4, 6)), ("y", (3, 5, 7)), ("z", (10, 6, None)))
    }
    assert [r.value for r in merged(judges)] == [5.0, 5.0, None]
    assert [r.value for r in merged(judges, "median")] == [3.0, 5.0, None]
    agreed = agreement({name: judges[name] for name in "xy"})
    assert agreed == {"spearman": pytest.approx(1.0), "mean_difference": 1.0}
    pairs = {
        name: from_judgments([rating("c", i, v, metric="preference") for i, v in enumerate(values)])
        for name, values in (("x", (1.9, 1.2)), ("y", (1.6, 1.8)), ("z", (1.7, 1.1)))
    }
    assert [r.value for r in merged(pairs, "majority")] == [2.0, 1.0]
    assert "kappa" in agreement(pairs)


def test_panel_with_low_agreement_is_flagged(store: Store) -> None:
    store.add_checkpoint(Checkpoint(id="c", name="c", method="kd", path="", created=1.0))
    rng = random.Random(0)
    store.add_judgments(
        rating("c", item, float(rng.randint(1, 10)), judge=judge)
        for item in range(60)
        for judge in ("one", "two")
    )
    panel = [s for s in leaderboard(store) if s.judge.startswith("panel:")]
    assert panel and "few-agree" in panel[0].flags
    assert any(s.metric == "agreement_spearman" for s in panel)
    assert not any(s.judge.startswith("panel:") for s in leaderboard(store, panels="none"))
    assert all(
        "panel:median" in s.flags
        for s in leaderboard(store, panels="median")
        if s.judge.startswith("panel:") and s.metric == "score"
    )


def test_judge_card_flags_the_scores_of_its_judge(store: Store) -> None:
    add_rated(store)
    assert "judge:untested" in leaderboard(store)[0].flags
    store.add_card("openai:x", {"labels": ["position-bias"]})
    assert "judge:position-bias" in leaderboard(store)[0].flags
    store.add_card("openai:x", {"labels": []})
    assert not any(flag.startswith("judge:") for flag in leaderboard(store)[0].flags)


def test_published_scores(paths: Paths) -> None:
    rows = {(s.checkpoint, s.metric): s.value for s in paper_scores()}
    assert rows["Flip-7B-Instruct-β", "score"] == 7.70
    assert rows["GPT-4", "win_rate"] == 95.28 and len(rows) == 16 + 13
    assert alpaca_scores(paths) == []
    folder = paths.assets / "alpaca-eval-judges/leaderboards/data_AlpacaEval_2"
    folder.mkdir(parents=True)
    (folder / "weighted_alpaca_eval_gpt4_turbo_leaderboard.csv").write_text(
        ",win_rate,length_controlled_winrate,avg_length\nmodel-x,10.5,12.25,900\nbad,,x,\n"
    )
    scores = {(s.checkpoint, s.metric): s.value for s in alpaca_scores(paths)}
    assert scores["model-x", "length_controlled_winrate"] == 12.25
    assert not any(name == "bad" for name, _ in scores)
