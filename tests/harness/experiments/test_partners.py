"""The run of a step that a run is compared with, where `vary` is a list."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st

from kdharness.harness.experiments.budgets import measured_budgets
from kdharness.harness.experiments.claim_judge import judge_claims
from kdharness.harness.experiments.claims import ClaimResult, ClaimSpec
from kdharness.harness.experiments.expand import (
    PlannedRun,
    SweepConfig,
    find_experiment,
    load_sweep,
    plan_sweep,
)
from kdharness.harness.experiments.frontiers import on_frontier
from kdharness.harness.experiments.partners import agree, partner
from kdharness.harness.paths import Paths
from kdharness.harness.runs import launch
from kdharness.harness.store import Store
from support.scored_store import add_checkpoint, verdict
from support.workers import Workers

SHOP = {"train": {"path": "shop:train", "kind": "domain"}}
RATE, SHARE = "trainer.learning_rate", "dae.trainer.temperature"
STEPS: dict[str, Any] = {
    "expert": {"method": "sft", "student": "start", "data": SHOP},
    "dae": {"method": "dae", "student": "start", "expert": "expert", "data": SHOP},
}
OTHER = {"sft": {"method": "sft", "student": "start", "data": SHOP}}
CLAIM = {"text": "x", "of": "dae", "than": "expert", "metric": "heldout:general_loss"}
PAIR = [{"seed": [1]}, {RATE: 1e-4, "seed": [1]}]


def plan(vary: object, steps: dict[str, Any] | None = None, **more: Any) -> dict[str, PlannedRun]:
    values = {"name": "pair", "steps": steps or STEPS, "vary": vary, **more}
    return {run.name: run for run in plan_sweep(SweepConfig.model_validate(values), Path())}


@pytest.mark.parametrize("swap", [False, True])
def test_a_run_is_compared_with_its_own_combination(swap: bool) -> None:
    runs = plan(PAIR[::-1] if swap else PAIR)
    for end in ("s1", "learning_rate0.0001-s1"):
        found = partner("expert", runs[f"pair-dae-{end}"], list(runs.values()))
        assert found.name == f"pair-expert-{end}"


def test_the_shipped_search_judges_each_choice_by_its_own_expert() -> None:
    _, planned = load_sweep(find_experiment("recipe"))
    assert sum("expert.trainer.max_tokens" in run.settings for run in planned) == 3
    for run in planned:
        if run.step == "dae":
            assert partner("expert", run, planned).name in run.needs


def test_a_setting_of_the_other_step_alone_is_as_in_the_file() -> None:
    vary = [{"seed": 1}, {"sft.trainer.learning_rate": [1e-4, 2e-4], "seed": 1}]
    runs = plan(vary, {**STEPS, **OTHER})
    assert partner("sft", runs["pair-dae-s1"], list(runs.values())).name == "pair-sft-s1"
    # Set together with a setting of this step, it is that of the combination.
    vary = [{"seed": 1}, {"sft.trainer.learning_rate": 1e-4, SHARE: 2, "seed": 1}]
    runs = plan(vary, {**STEPS, **OTHER})
    found = partner("sft", runs["pair-dae-temperature2-s1"], list(runs.values()))
    assert found.name == "pair-sft-learning_rate0.0001-s1"


def test_several_that_fit_are_not_guessed_among(paths: Paths, tmp_path: Path) -> None:
    vary = {"sft.trainer.learning_rate": [1e-4, 2e-4], "seed": [1]}
    values = {"name": "pair", "steps": {**STEPS, **OTHER}, "vary": vary}
    values["claims"] = [{**CLAIM, "than": "sft", "equal": ["tokens"]}]
    file = tmp_path / "x.yaml"
    file.write_text(yaml.safe_dump(values, sort_keys=False), "utf-8")
    sweep, planned = load_sweep(file)
    with pytest.raises(LookupError, match="2 runs of sft belong to pair-dae-s1, not 1: pair-sft-"):
        partner("sft", next(run for run in planned if run.step == "dae"), planned)
    with Store(paths.store) as store:
        result = judge_claims(store, sweep.claims, planned)[0]
    assert result.effect is None and "2 runs of sft belong to" in result.note
    assert result.equal == {}


def test_a_claim_and_its_budget_are_those_of_the_own_expert(
    workers: Workers, paths: Paths, tmp_path: Path
) -> None:
    values = {
        "name": "pair",
        "steps": STEPS,
        "vary": PAIR,
        "claims": [{**CLAIM, "equal": ["tokens"]}],
    }
    file = tmp_path / "x.yaml"
    file.write_text(yaml.safe_dump(values, sort_keys=False), "utf-8")
    sweep, planned = load_sweep(file)
    losses = {"pair-expert-s1": 2.0, "pair-dae-s1": 1.9}
    losses |= {"pair-expert-learning_rate0.0001-s1": 3.0, "pair-dae-learning_rate0.0001-s1": 2.6}
    tokens = {"pair-expert-s1": 100, "pair-dae-s1": 100}
    tokens |= {"pair-expert-learning_rate0.0001-s1": 50, "pair-dae-learning_rate0.0001-s1": 100}
    for run in planned:
        launch.prepare(paths, run.config, run.name)
    with Store(paths.store) as store:
        for name, loss in losses.items():
            store.update_run(name, step=1, info={"tokens": tokens[name]}, status="finished")
            add_checkpoint(store, name, "sft", path="")
            store.add_judgments(
                verdict(name, i, loss + i / 100, bench="heldout", metric="general_loss")
                for i in range(20)
            )
        plain, faster = judge_claims(store, sweep.claims, planned)
    assert plain.effect is not None and faster.effect is not None
    assert plain.effect.value == pytest.approx(0.1)
    assert faster.effect.value == pytest.approx(0.4)
    assert (plain.equal, faster.equal) == ({"tokens": 1.0}, {"tokens": 2.0})


def test_budgets_are_those_of_the_results_own_settings(workers: Workers, paths: Paths) -> None:
    """A result as in the file is not about runs whose settings are varied."""
    runs = plan(PAIR)
    claim = ClaimSpec(**{**CLAIM, "equal": ["tokens"]})
    for run in runs.values():
        launch.prepare(paths, run.config, run.name)
    with Store(paths.store) as store:
        for name in runs:
            tokens = 300 if name == "pair-dae-learning_rate0.0001-s1" else 100
            store.update_run(name, step=1, info={"tokens": tokens}, status="finished")
        found = measured_budgets(store, ClaimResult(claim, {}, None), list(runs.values()))
        varied = ClaimResult(claim, {RATE: 1e-4}, None)
        assert measured_budgets(store, varied, list(runs.values())) == {"tokens": 3.0}
    assert found == {"tokens": 1.0}


def test_a_frontier_has_the_settings_of_the_run() -> None:
    rates = {"sft.trainer.learning_rate": [1e-5, 1e-4], "seed": [1]}
    steps = {**STEPS, **OTHER}
    frontier = {"reference": "start", "expert": "expert", "frontier": "sft"}
    claim = ClaimSpec(text="x", of="dae", figure="gain_above_frontier", **frontier)
    runs = plan([rates, {**rates, "trainer.max_tokens": 9000}], steps)
    for name, end in (("pair-dae-s1", ""), ("pair-dae-s1-max_tokens9000", "-max_tokens9000")):
        found = on_frontier(claim, runs[name], list(runs.values()))
        assert [other.name for other in found if other.step == "sft"] == [
            f"pair-sft-learning_rate{rate}-s1{end}" for rate in ("1e_05", "0.0001")
        ]
        assert all(agree(runs[name], other, list(runs.values())) for other in found)
    runs = plan([{"seed": [1]}, {"sft.trainer.learning_rate": [1e-5, 1e-4]}], steps)
    with pytest.raises(LookupError, match="no run of sft has the settings of pair-dae-s1"):
        on_frontier(claim, runs["pair-dae-s1"], list(runs.values()))


GRIDS = st.lists(
    st.dictionaries(
        st.sampled_from(["seed", "trainer.max_tokens", SHARE, "expert.trainer.max_tokens"]),
        st.lists(st.integers(1, 3), min_size=1, max_size=2, unique=True),
    ),
    min_size=1,
    max_size=3,
)


@settings(max_examples=15, deadline=None)
@given(GRIDS)
def test_what_a_run_was_made_from_is_its_partner(vary: list[dict[str, Any]]) -> None:
    runs = list(plan(vary).values())
    for run in runs:
        if run.step == "dae":
            assert partner("expert", run, runs).name in run.needs
