"""What checkpoints cost: their trainings, counted once each, and their judges."""

from __future__ import annotations

from typing import Any

from kdharness.harness.analysis.costs import costs_of, flops_text, training_cost
from kdharness.harness.store import Store
from support.scored_store import add_checkpoint, add_run, lineage, verdict


def test_a_diamond_counts_each_training_once(store: Store) -> None:
    made = lineage(store)
    dae = training_cost(store, made["dae"])
    assert (dae.flops, dae.flops_total, dae.trainings) == (8e12, 15e12, 4)
    assert (dae.tokens, dae.seconds) == (1000, 60.0)
    kd = training_cost(store, made["kd"])
    assert (kd.flops, kd.flops_total, kd.trainings) == (2e12, 3e12, 2)


def test_merges_cuts_and_what_was_found_elsewhere(store: Store) -> None:
    made = lineage(store)
    wise = training_cost(store, made["wise"])
    assert (wise.flops, wise.tokens, wise.seconds, wise.flops_total) == (0, 0, 0, 7e12)
    assert training_cost(store, made["cut"]).flops_total == 1e12
    hub = training_cost(store, made["hub"])
    assert (hub.flops, hub.tokens, hub.seconds, hub.flops_total) == (None, None, None, None)
    assert hub.texts()["flops_total"] == "–"


def test_the_best_and_the_last_weights_are_one_training(store: Store) -> None:
    made = lineage(store)
    best = add_checkpoint(
        store, "kd@best", run="kd", info={"flops": 2e12}, parents=made["kd"].parents
    )
    both = add_checkpoint(store, "both", "merge", parents={"a": best.id, "b": made["kd"].id})
    assert training_cost(store, both).flops_total == 3e12


def test_a_sum_that_is_not_whole_says_so(store: Store) -> None:
    made = lineage(store)
    add_run(store, "old")
    old = add_checkpoint(
        store,
        "old",
        info={"flops": float("nan")},
        parents={"teacher": made["teacher"].id, "gone": "id-nobody"},
    )
    cost = training_cost(store, old)
    assert (cost.flops, cost.flops_total, cost.flops_known) == (None, None, 1e12)
    assert cost.texts()["flops_total"] == "≥ 1e12" and cost.texts()["tokens"] == "–"


def test_a_circle_of_parents_ends(store: Store) -> None:
    for name, parent in (("x", "y"), ("y", "x")):
        add_run(store, name)
        add_checkpoint(store, name, info={"flops": 1.0}, parents={"student": f"id-{parent}"})
    one = store.checkpoint("x")
    assert one is not None and training_cost(store, one).flops_total == 2.0


def test_judges_are_paid_for_what_was_asked_from_here(store: Store) -> None:
    one = add_checkpoint(store, "a")
    asked: dict[str, Any] = {"judge": "openai:j", "metric": "rating", "raw": "7", "usd": 0.25}
    store.add_judgments(
        [
            verdict("a", 1, 7.0, **asked),
            verdict("a", 2, None, **{**asked, "raw": "", "error": "time", "usd": 0.0}),
            verdict("a", 3, 7.0, **{**asked, "info": {"copied": "x"}, "usd": 0.0}),
            verdict("a", 4, 7.0, **{**asked, "info": {"mirrored": "x"}, "usd": 0.0}),
            verdict("a", 5, 0.5, **{**asked, "raw": "", "usd": 0.0}),
            verdict("a", 6, 7.0, **{**asked, "judge": "imported:gpt-4"}),
            verdict("a", 7, 1.0),
            verdict("b", 8, 7.0, **asked),
        ]
    )
    (cost,) = costs_of(store, [one])
    assert (cost.judge_calls, cost.judge_usd) == (2, 0.25)
    assert [row["calls"] for row in store.judge_spending()] == [3]


def test_flops_are_told_in_three_digits() -> None:
    shown = [flops_text(v) for v in (None, 0, 1.2345e15, 3.0e9, 12)]
    assert shown == ["–", "0", "1.23e15", "3e09", "12"]
