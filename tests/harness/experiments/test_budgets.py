"""How equal the budgets of compared trainings were: over seeds, and over processes."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from kdharness.harness.experiments.budgets import measured_budgets
from kdharness.harness.experiments.claims import Budget, ClaimResult, ClaimSpec, claim_parts
from kdharness.harness.experiments.expand import PlannedRun, SweepConfig, plan_sweep
from kdharness.harness.paths import Paths
from kdharness.harness.store import Store
from support.scored_store import add_run

SHOP = {"train": {"path": "shop:train", "kind": "domain"}}
SFT = {"method": "sft", "student": "start", "data": SHOP, "trainer": {"batch_size": 4}}
CLAIM = {"text": "x", "of": "kd", "than": "sft", "metric": "heldout:general_loss"}
INFO = {"shares": {"domain": 1.0}}


def planned(seeds: list[int]) -> list[PlannedRun]:
    values = {"name": "x", "steps": {"sft": SFT, "kd": SFT}, "vary": {"seed": seeds}}
    return plan_sweep(SweepConfig.model_validate(values), Path())


def measured(paths: Paths, infos: dict[str, dict[str, Any]], budget: Budget) -> ClaimResult:
    """Return the result of a claim of an equal budget; `infos` is by the runs' names."""
    seeds = sorted({int(name.rpartition("-s")[2]) for name in infos})
    with Store(paths.store) as store:
        for name, info in infos.items():
            add_run(store, name, "sft", info=info, step=10)
        result = ClaimResult(ClaimSpec(**CLAIM, equal=[budget]), {}, None)
        equal = measured_budgets(store, result, planned(seeds))
    return ClaimResult(result.claim, {}, None, equal=equal)


def test_seeds_do_not_make_up_for_each_other(paths: Paths) -> None:
    tokens = {"x-sft-s1": 100, "x-sft-s2": 100, "x-kd-s1": 60, "x-kd-s2": 140}
    result = measured(paths, {name: {"tokens": n} for name, n in tokens.items()}, "tokens")
    assert result.equal == {"tokens": pytest.approx(0.6)}
    assert "at equal tokens (0.60 times: NOT EQUAL)" in "\n".join(claim_parts(result))


@settings(max_examples=15, deadline=None)
@given(st.lists(st.integers(50, 150), min_size=1, max_size=4))
def test_one_unequal_seed_is_enough(
    tmp_path_factory: pytest.TempPathFactory, tokens: list[int]
) -> None:
    infos = {f"x-sft-s{seed}": {"tokens": 100} for seed in range(len(tokens))}
    infos |= {f"x-kd-s{seed}": {"tokens": n} for seed, n in enumerate(tokens)}
    result = measured(Paths(tmp_path_factory.mktemp("home")), infos, "tokens")
    apart = any(abs(n / 100 - 1) > 0.11 for n in tokens)
    near = all(abs(n / 100 - 1) < 0.09 for n in tokens)
    said = "NOT EQUAL" in "\n".join(claim_parts(result))
    assert (said or not apart) and not (said and near)


@pytest.mark.parametrize(
    ("more", "share"),
    [
        ({"processes": 2}, 2.0),
        ({"processes": 2, "accelerate": "/four.yaml"}, 2.0),
        ({}, 1.0),
        ({"accelerate": "/four.yaml"}, None),
    ],
)
def test_every_process_trains_on_rows_of_its_own(
    paths: Paths, more: dict[str, Any], share: float | None
) -> None:
    infos = {"x-sft-s1": {**INFO, "processes": 1}, "x-kd-s1": {**INFO, **more}}
    result = measured(paths, infos, "domain tokens")
    assert result.equal.get("domain tokens") == share
