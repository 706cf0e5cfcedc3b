"""Compare checkpoints: paired differences, settings that differ, and flips."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kdharness.harness.analysis.compare import PairedComparison, compare_all, sides_of
from kdharness.harness.analysis.side_by_side import NO_RUN, flip_counts, flips, settings_that_differ
from kdharness.harness.stats.inference import Difference
from kdharness.harness.store import Store
from support.scored_store import add_checkpoint, add_run, verdict

# ---------------------------------------------------------------- verdicts


def paired_comparison(low: float, high: float, p: float, metric: str = "score") -> PairedComparison:
    gap = Difference((low + high) / 2, low, high, p, 20, 10)
    return PairedComparison("shop", metric, "exact", "a", "b", 0.0, 0.0, gap, p)


@pytest.mark.parametrize(
    ("low", "high", "p", "expected"),
    [
        (0.1, 0.5, 0.001, "better"),
        (-0.5, -0.1, 0.001, "worse"),
        # The sign-flip test and the bootstrap interval disagree: no winner.
        (-0.01, 0.5, 0.001, "not told apart"),
        (-0.5, 0.01, 0.001, "not told apart"),
        (0.0, 0.5, 0.001, "not told apart"),
        (0.1, 0.5, 0.05, "not told apart"),
    ],
)
def test_winner_requires_both_interval_and_corrected_p(
    low: float, high: float, p: float, expected: str
) -> None:
    assert paired_comparison(low, high, p).verdict == expected
    reversed_verdict = {"better": "worse", "worse": "better"}.get(expected, expected)
    assert paired_comparison(low, high, p, "domain_loss").verdict == reversed_verdict


@given(st.floats(-1, 1), st.floats(0, 1), st.floats(0, 1))
def test_no_winner_if_the_interval_contains_zero(low: float, width: float, p: float) -> None:
    comparison = paired_comparison(low, low + width, p)
    if low <= 0 <= low + width or p >= 0.05:
        assert comparison.verdict == "not told apart"
        assert comparison.as_dict()["verdict"] == "not told apart"


def test_holm_corrects_over_all_metrics_and_checkpoints_of_a_benchmark(store: Store) -> None:
    for name, right in (("a", 2), ("b", 14), ("c", 15)):
        add_checkpoint(store, name)
        store.add_judgments([verdict(name, i, float(i < right)) for i in range(16)])
        store.add_judgments(
            [
                verdict(
                    name,
                    i,
                    3.0 + right / 4 + i % 3,
                    bench="mt-bench",
                    metric="rating",
                    judge="openai:j",
                )
                for i in range(10)
            ]
        )
    pair = {(c.bench, c.metric): c for c in compare_all(store, None, ["a", "b"])}
    three = {
        (c.bench, c.metric): c for c in compare_all(store, None, ["a", "b", "c"]) if c.other == "b"
    }
    shop = [c for c in compare_all(store, None, ["a", "b"]) if c.bench == "shop"]
    assert len(shop) > 1 and pair["shop", "score"].verdict == "better"
    assert pair["shop", "score"].p_holm <= len(shop) * pair["shop", "score"].gap.p + 1e-12
    assert all(three[key].p_holm >= pair[key].p_holm for key in pair)
    store.add_judgments([verdict(n, i, 1.0, bench="other") for n in "ab" for i in range(9)])
    after_other_bench = {(c.bench, c.metric): c for c in compare_all(store, None, ["a", "b"])}
    assert all(after_other_bench[key].p_holm == pair[key].p_holm for key in pair)


# ---------------------------------------------------------------- settings


def test_settings_diff_lists_fields_runs_and_checkpoints_without_a_run(store: Store) -> None:
    add_run(store, "one", config={"seed": 1, "trainer": {"lr": 1e-5, "layers": [1, 2]}})
    add_run(store, "two", config={"seed": 1, "trainer": {"lr": 2e-5, "layers": [1, 3]}})
    checkpoints = [add_checkpoint(store, "one"), add_checkpoint(store, "two")]
    assert dict(settings_that_differ(store, checkpoints)) == {
        "run": ["/runs/one", "/runs/two"],
        "trainer.lr": [1e-5, 2e-5],
        "trainer.layers": [[1, 2], [1, 3]],
    }
    checkpoints.append(add_checkpoint(store, "found", "import", info={"kept": [1]}))
    shown = dict(settings_that_differ(store, checkpoints))
    assert shown["run"] == ["/runs/one", "/runs/two", NO_RUN]
    assert shown["trainer.lr"] == [1e-5, 2e-5, NO_RUN] and shown["kept"] == [None, None, [1]]
    assert "trainer.lr" not in dict(settings_that_differ(store, checkpoints[1:]))
    assert settings_that_differ(store, [checkpoints[0], checkpoints[0]]) == []


def test_settings_diff_of_merges_from_one_run_lists_alpha(store: Store) -> None:
    add_run(store, "wise", "merge")
    checkpoints = [
        add_checkpoint(store, f"w{a}", "merge", run="wise", info={"alpha": a}) for a in (0.2, 0.7)
    ]
    assert settings_that_differ(store, checkpoints) == [("alpha", [0.2, 0.7])]


# ---------------------------------------------------------------- flips


def test_flips_cross_the_midpoint_and_count_each_judgment_once(store: Store) -> None:
    for name in "ab":
        add_checkpoint(store, name)
    before, after = [0, 1, 0, 1, 0.4, 1, None], [1, 0, 1, 1, 0.45, 1, 1]
    for name, values in (("a", before), ("b", after)):
        store.add_judgments([verdict(name, i, v) for i, v in enumerate(values)])
        store.add_judgments(
            [
                verdict(name, i, 100.0 * (name == "a"), bench="heldout", metric="domain_loss")
                for i in range(3)
            ]
        )
    # A later judgment replaces the first: b's item 5 was correct and is now wrong.
    store.add_judgments([verdict("b", 5, 0.0, created=2.0)])
    ratings = {"a": [3.0, 7.0, 5.0], "b": [5.0, 6.0, 1.0]}
    for name, values in ratings.items():
        store.add_judgments(
            [
                verdict(name, i, v, bench="mt-bench", metric="rating", judge="openai:j")
                for i, v in enumerate(values)
            ]
        )
    base, other = sides_of(store, ["a", "b"])
    rated, shop = flip_counts(base, other)
    assert (shop.bench, shop.n, shop.wrong_to_right, shop.right_to_wrong) == ("shop", 6, 2, 2)
    assert (rated.judge, rated.n, rated.wrong_to_right, rated.right_to_wrong) == (
        "openai:j",
        3,
        1,
        1,
    )
    assert [i.item for i in rated.items] == ["i2", "i0"]
    assert len(shop.as_dict(1)["items"]) == 1  # type: ignore[arg-type]
    moved = flips(base.table, other.table)
    assert {f.item for f in moved if not f.flipped} == {"i1", "i4"}  # 7 to 6, and 0.4 to 0.45
    assert [f.flipped for f in moved] == sorted((f.flipped for f in moved), reverse=True)


def test_item_with_two_metrics_counts_as_two_judgments(store: Store) -> None:
    for name, rated in (("a", 2.0), ("b", 8.0)):
        add_checkpoint(store, name)
        store.add_judgments(
            [
                verdict(name, 1, 1.0, bench="mine"),
                verdict(name, 1, rated, bench="mine", metric="rating"),
            ]
        )
    (flipped,) = flip_counts(*sides_of(store, ["a", "b"]))
    assert (flipped.n, flipped.wrong_to_right, flipped.items[0].metric) == (2, 1, "rating")
