"""The parts of the replication: shared runs, sizes, the listing, smoke runs, resuming."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from kdharness.harness import cli
from kdharness.harness.config.training import config_hash, trains_on_data
from kdharness.harness.errors import ConfigError, RunError
from kdharness.harness.experiments.detached import start_sweep, stored_sweep
from kdharness.harness.experiments.expand import (
    PlannedRun,
    SweepConfig,
    experiment_names,
    find_experiment,
    load_sweep,
)
from kdharness.harness.experiments.modelled import modelled_seconds, own_models, total_seconds
from kdharness.harness.experiments.parts import FIRST, PARTS, SECOND, read_parts
from kdharness.harness.experiments.run import run_sweep, state_of
from kdharness.harness.experiments.smoke import ITEMS, STEPS, load_smoke
from kdharness.harness.paths import Paths
from kdharness.harness.runs import launch
from kdharness.harness.store import Store
from support.experiments import STEPS as CHAIN
from support.experiments import sweep_file
from support.workers import Workers


@pytest.fixture(scope="module")
def loaded() -> dict[str, tuple[SweepConfig, list[PlannedRun]]]:
    return {name: load_sweep(find_experiment(name)) for name in PARTS}


Loaded = dict[str, tuple[SweepConfig, list[PlannedRun]]]


def test_every_file_is_a_part_and_states_its_claims(loaded: Loaded) -> None:
    others = {"baselines", "demo", "referee"}
    assert set(PARTS) == set(experiment_names()) - others
    for name, (sweep, planned) in loaded.items():
        assert sweep.name == name
        assert sweep.question
        assert sweep.claims or sweep.choose
        seeds = {run.settings["seed"] for run in planned if "seed" in run.settings}
        assert len(seeds) == (1 if sweep.choose else 3), name


def test_parts_run_seed_by_seed(loaded: Loaded) -> None:
    """So that one which is stopped has whole seeds, and its claims an interval over questions."""
    for name, (sweep, planned) in loaded.items():
        if name in SECOND and not sweep.choose:
            seeds = [run.settings["seed"] for run in planned]
            assert seeds == sorted(seeds), name


def test_runs_of_the_same_name_are_the_same_run(loaded: Loaded) -> None:
    """A part that trained its expert otherwise would refuse, or repeat, what another has done."""
    hashes: dict[str, dict[str, str]] = {}
    for name, (_, planned) in loaded.items():
        for run in planned:
            hashes.setdefault(run.name, {})[name] = config_hash(run.config)
    assert {name for name, found in hashes.items() if len(set(found.values())) > 1} == set()
    sharing = ("frontier", "alternatives", "on-policy", "no-general", "forgetting", "recipe")
    assert sorted(hashes["second-dae-s1"]) == sorted(sharing)
    assert sorted(hashes["second-expert-s1"]) == sorted((*sharing, "recipe-combined"))
    assert sorted(hashes["second-kd-s2"]) == ["attention", "kd-sft"]
    # The first edition and the second keep apart.
    assert not any(set(found) & set(FIRST) and len(found) > 1 for found in hashes.values())


def test_no_part_takes_longer_than_ninety_minutes(loaded: Loaded) -> None:
    minutes = {name: total_seconds(planned, ()) for name, (_, planned) in loaded.items()}
    for name, seconds in minutes.items():
        if name != "coder-pair":
            assert seconds is not None
            assert 15 * 60 < seconds <= 90 * 60, name
    assert minutes["coder-pair"] is None
    # It took 65 minutes, with other work running on the machine.
    first = minutes["replication"]
    assert first is not None
    assert 60 <= first / 60 <= 80


def test_what_is_done_takes_no_more_time(loaded: Loaded) -> None:
    _, planned = loaded["frontier"]
    models = own_models(planned)
    whole = total_seconds(planned, ())
    one = next(run for run in planned if run.step == "dae")
    seconds = modelled_seconds(one.config, models)
    left = total_seconds(planned, {one.name})
    assert whole is not None and left is not None and seconds is not None
    assert whole - left == pytest.approx(seconds)
    assert total_seconds(planned, {run.name for run in planned}) == 0
    # The reference is evaluated with every seed, and measured once.
    evals = [run.name for run in planned if run.step == "domain"]
    others = {run.name for run in planned} - set(evals)
    parts = [total_seconds(planned, others | set(evals[n:])) for n in (1, 2)]
    assert parts[0] is not None and parts[1] is not None
    assert parts[1] < 2 * parts[0]


def test_budgets_that_claims_call_equal_are_planned_so(loaded: Loaded) -> None:
    for name, (sweep, planned) in loaded.items():
        tokens = {
            run.step: run.config.trainer.max_tokens for run in planned if trains_on_data(run.config)
        }
        for claim in sweep.claims:
            if "tokens" in claim.equal:
                assert tokens[claim.of] == tokens[claim.than or ""], (name, claim.text)


def test_the_listing_counts_what_is_done_here(
    workers: Workers, paths: Paths, capsys: pytest.CaptureFixture[str]
) -> None:
    _, planned = load_sweep(find_experiment("attention"))
    for run in planned[:2]:
        launch.prepare(paths, run.config, run.name)
    with Store(paths.store) as store:
        for run in planned[:2]:
            store.update_run(run.name, status="finished", started=0.0, finished=90.0)
    command = ["--home", str(paths.home), "replicate", "--list"]
    assert cli.run([*command, "--format", "json"]) == 0
    rows = {row["part"]: row for row in json.loads(capsys.readouterr().out)}
    assert list(rows) == list(PARTS)
    assert [rows[name]["done"] for name in ("replication", "kd-sft", "attention")] == [0, 1, 2]
    assert rows["attention"]["minutes_done"] == 3.0
    assert rows["attention"]["minutes"] < 29
    assert rows["attention"]["shared"] == ["kd-sft"]
    assert rows["attention"]["edition"] == 2
    assert len(rows["frontier"]["claims"]) == 8
    assert rows["coder-pair"]["minutes"] is None
    assert cli.run([*command, "frontier", "--format", "json"]) == 0
    assert [row["part"] for row in json.loads(capsys.readouterr().out)] == ["frontier"]
    assert cli.run(command) == 0
    text = capsys.readouterr().out
    assert "attention: 12 runs, 2 done here; 3 min measured, about" in text
    assert "  1. DAE has at least nine tenths of the expert's domain gain (at equal dom" in text
    assert "shares trainings with kd-sft" in text


def test_a_run_with_other_settings_is_named_in_the_listing(workers: Workers, paths: Paths) -> None:
    _, planned = load_sweep(find_experiment("attention"))
    other = planned[0].config.model_copy(update={"seed": 99})
    launch.prepare(paths, other, planned[0].name)
    with Store(paths.store) as store:
        parts = {part.name: part for part in read_parts(store)}
    assert "already exists with different settings" in parts["attention"].note
    assert parts["frontier"].note == ""


def test_parts_share_their_runs_and_continue(
    workers: Workers, tmp_path: Path, paths: Paths
) -> None:
    """The second part trains nothing that the first has; a killed part starts where it was."""
    first, second = tmp_path / "first", tmp_path / "second"
    first.mkdir()
    second.mkdir()
    steps = {name: CHAIN[name] for name in ("kd", "expert")}
    one = sweep_file(first, name="one", runs="shared", steps=steps)
    two = sweep_file(second, name="two", runs="shared", steps={**steps, "more": CHAIN["more"]})
    results = run_sweep(paths, load_sweep(one)[1], print, print)
    assert [(r.name, r.status) for r in results] == [
        ("shared-kd", "finished"),
        ("shared-expert", "finished"),
    ]
    workers.broken.add("shared-more")
    results = run_sweep(paths, load_sweep(two)[1], print, print)
    assert [r.status for r in results] == ["done before", "done before", "failed"]
    workers.broken.clear()
    results = run_sweep(paths, load_sweep(two)[1], print, print)
    assert [r.status for r in results] == ["done before", "done before", "finished"]
    assert workers.spawned == ["shared-kd", "shared-expert", "shared-more", "shared-more"]
    changed = sweep_file(
        second, name="two", runs="shared", steps={"kd": {**CHAIN["kd"], "seed": 7}}
    )
    with Store(paths.store) as store, pytest.raises(RunError, match="different settings"):
        state_of(store, load_sweep(changed)[1][0])


def test_smoke_runs_are_small_and_apart(loaded: Loaded) -> None:
    for name in SECOND:
        small, planned = load_smoke(find_experiment(name))
        whole = {run.name for run in loaded[name][1]}
        assert small.name == f"smoke-{name}"
        assert not {run.name for run in planned} & whole
        assert {run.step for run in planned} == set(loaded[name][0].steps)
        for run in planned:
            if trains_on_data(run.config):
                assert run.config.trainer.max_steps == STEPS
            elif run.config.method == "eval":
                assert run.config.limit == ITEMS  # type: ignore[union-attr]


def test_a_prefix_of_runs_must_be_one(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="runs"):
        load_sweep(sweep_file(tmp_path, runs="a b", steps={"kd": CHAIN["kd"]}))


def test_a_field_of_a_step_that_is_a_file_can_be_set(tmp_path: Path) -> None:
    """The override had replaced the file, so that the step had nothing else."""
    _, planned = load_sweep(find_experiment("frontier"), ["steps.expert.trainer.max_tokens=400"])
    experts = [run.config for run in planned if run.step == "expert"]
    assert {config.trainer.max_tokens for config in experts if trains_on_data(config)} == {400}
    assert {config.method for config in experts} == {"sft"}


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["recipe", "--seeds", "2"], "whose `vary` is a list"),
        (["frontier", "--judge", "openai:x"], "without judged answers"),
        (["frontier", "--smoke", "--seeds", "2"], "--smoke cannot be combined"),
        (["--list"], "--list cannot be combined"),
        (["fronter"], "shipped experiments: alternatives, attention"),
    ],
)
def test_options_that_apply_to_nothing_are_refused(
    paths: Paths, capsys: pytest.CaptureFixture[str], options: list[str], message: str
) -> None:
    assert cli.run(["--home", str(paths.home), "replicate", *options, "--dry-run"]) == 2
    assert message in capsys.readouterr().err


def test_a_judge_replaces_that_of_every_judged_step(
    paths: Paths, tmp_path: Path, capsys: pytest.CaptureFixture[str], workers: Workers
) -> None:
    """Those of steps that are files had kept their own."""
    scored = "{method: eval, checkpoints: [kd], benches: [mt-bench], judge: [local:toy]}"
    (tmp_path / "scores.yaml").write_text(scored)
    claim = {"text": "x", "of": "kd", "than": "base", "metric": "mt-bench:score"}
    steps = {"kd": CHAIN["kd"], "scores": "scores.yaml"}
    file = sweep_file(tmp_path, steps=steps, claims=[claim])
    command = ["--home", str(paths.home), "replicate", str(file), "--judge", "openai:real"]
    assert cli.run(command) == 0
    with Store(paths.store) as store:
        run = store.run("x-scores")
    assert run is not None
    assert run.config["judge"] == ["openai:real"]


@pytest.mark.parametrize("name", ["frontier", "recipe", "recipe-combined"])
def test_a_part_runs_in_the_background_as_it_is_planned(
    workers: Workers, paths: Paths, name: str, loaded: Loaded
) -> None:
    """Its steps are files beside it, and its validation rows files beside those."""
    run = start_sweep(paths, find_experiment(name))
    sweep, planned = stored_sweep(paths, run)
    assert planned == loaded[name][1]
    assert (sweep.runs, sweep.claims, sweep.choose) == (
        "second",
        loaded[name][0].claims,
        loaded[name][0].choose,
    )
    kept, copied = load_sweep(paths.sweeps / f"{name}.yaml")
    assert copied == planned
    assert kept.claims == sweep.claims


def test_only_parts_are_listed(paths: Paths, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.run(["--home", str(paths.home), "replicate", "--list", "baselines"]) == 2
    assert "'baselines' is not a part of the replication" in capsys.readouterr().err
