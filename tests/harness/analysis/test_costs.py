"""Costs of checkpoints: each training run counted once, and judge calls."""

from __future__ import annotations

from typing import Any

from kdharness.harness.analysis.costs import costs_of, flops_text, training_cost
from kdharness.harness.store import Store
from support.scored_store import add_checkpoint, add_run, lineage, verdict


def test_diamond_lineage_counts_each_training_once(store: Store) -> None:
    checkpoints = lineage(store)
    dae = training_cost(store, checkpoints["dae"])
    assert (dae.flops, dae.flops_total, dae.trainings) == (8e12, 15e12, 4)
    assert (dae.tokens, dae.seconds) == (1000, 60.0)
    kd = training_cost(store, checkpoints["kd"])
    assert (kd.flops, kd.flops_total, kd.trainings) == (2e12, 3e12, 2)


def test_costs_of_merged_pruned_and_external_checkpoints(store: Store) -> None:
    checkpoints = lineage(store)
    wise = training_cost(store, checkpoints["wise"])
    assert (wise.flops, wise.tokens, wise.seconds, wise.flops_total) == (0, 0, 0, 7e12)
    assert training_cost(store, checkpoints["cut"]).flops_total == 1e12
    hub = training_cost(store, checkpoints["hub"])
    assert (hub.flops, hub.tokens, hub.seconds, hub.flops_total) == (None, None, None, None)
    assert hub.texts()["flops_total"] == "–"


def test_best_and_last_weights_count_as_one_training(store: Store) -> None:
    checkpoints = lineage(store)
    best = add_checkpoint(
        store, "kd@best", run="kd", info={"flops": 2e12}, parents=checkpoints["kd"].parents
    )
    merged = add_checkpoint(
        store, "both", "merge", parents={"a": best.id, "b": checkpoints["kd"].id}
    )
    assert training_cost(store, merged).flops_total == 3e12


def test_incomplete_total_is_shown_as_a_lower_bound(store: Store) -> None:
    checkpoints = lineage(store)
    add_run(store, "old")
    old = add_checkpoint(
        store,
        "old",
        info={"flops": float("nan")},
        parents={"teacher": checkpoints["teacher"].id, "gone": "id-nobody"},
    )
    cost = training_cost(store, old)
    assert (cost.flops, cost.flops_total, cost.flops_known) == (None, None, 1e12)
    assert cost.texts()["flops_total"] == "≥ 1e12" and cost.texts()["tokens"] == "–"


def test_cyclic_parents_terminate(store: Store) -> None:
    for name, parent in (("x", "y"), ("y", "x")):
        add_run(store, name)
        add_checkpoint(store, name, info={"flops": 1.0}, parents={"student": f"id-{parent}"})
    checkpoint = store.checkpoint("x")
    assert checkpoint is not None and training_cost(store, checkpoint).flops_total == 2.0


def test_judge_cost_counts_only_calls_made_from_this_home(store: Store) -> None:
    checkpoint = add_checkpoint(store, "a")
    judged: dict[str, Any] = {"judge": "openai:j", "metric": "rating", "raw": "7", "usd": 0.25}
    store.add_judgments(
        [
            verdict("a", 1, 7.0, **judged),
            verdict("a", 2, None, **{**judged, "raw": "", "error": "time", "usd": 0.0}),
            verdict("a", 3, 7.0, **{**judged, "info": {"copied": "x"}, "usd": 0.0}),
            verdict("a", 4, 7.0, **{**judged, "info": {"mirrored": "x"}, "usd": 0.0}),
            verdict("a", 5, 0.5, **{**judged, "raw": "", "usd": 0.0}),
            verdict("a", 6, 7.0, **{**judged, "judge": "imported:gpt-4"}),
            verdict("a", 7, 1.0),
            verdict("b", 8, 7.0, **judged),
        ]
    )
    (cost,) = costs_of(store, [checkpoint])
    assert (cost.judge_calls, cost.judge_usd) == (2, 0.25)
    assert [row["calls"] for row in store.judge_spending()] == [3]


def test_flops_are_formatted_with_three_significant_digits() -> None:
    shown = [flops_text(v) for v in (None, 0, 1.2345e15, 3.0e9, 12)]
    assert shown == ["–", "0", "1.23e15", "3e09", "12"]
