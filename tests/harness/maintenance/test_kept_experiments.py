"""Runs of experiments that are kept in the home: removing and renaming them says so."""

from __future__ import annotations

from pathlib import Path

import pytest
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st

from kdharness.harness.experiments.expand import (
    SweepConfig,
    experiment_names,
    find_experiment,
    load_sweep,
    plan_sweep,
)
from kdharness.harness.maintenance.kept_experiments import kept_runs
from kdharness.harness.paths import Paths
from kdharness.harness.store import Store
from support.commands import CommandLine
from support.scored_store import add_run

STEP = {"method": "sft", "student": "start", "data": {"train": "general:train"}}
MINI = {"name": "mini", "runs": "shared", "steps": {"sft": STEP}, "vary": {"seed": [1, 2]}}


def keep(paths: Paths, **values: object) -> Path:
    folder = paths.home / "sweeps"
    folder.mkdir(parents=True, exist_ok=True)
    file = folder / f"{values['name']}.yaml"
    file.write_text(yaml.safe_dump(values), "utf-8")
    return file


def test_a_prefix_shared_by_experiments_protects_their_runs(paths: Paths, kd: CommandLine) -> None:
    keep(paths, **MINI)
    with Store(paths.store) as store:
        for name in ("shared-sft-s1", "shared-sft-s2", "shared-kd-s1", "mini-sft-s1"):
            add_run(store, name)
    code, _, err = kd("rename", "shared-sft-s1", "other")
    assert code == 1
    assert "a run of the experiment mini, which would run it again" in err
    assert "the experiment mini would run it again" in kd("rm", "shared-sft-s2", "--yes")[2]
    # Runs that only look alike are of no experiment that is kept here.
    assert kd("rename", "shared-kd-s1", "free")[0] == kd("rename", "mini-sft-s1", "too")[0] == 0
    assert kd("rename", "shared-sft-s1", "other", "--force")[0] == 0


def test_every_experiment_that_shares_a_run_is_named(paths: Paths, kd: CommandLine) -> None:
    keep(paths, **MINI)
    keep(paths, **{**MINI, "name": "maxi"})
    with Store(paths.store) as store:
        add_run(store, "shared-sft-s1")
    code, _, err = kd("rename", "shared-sft-s1", "other")
    assert code == 1
    assert "of the experiments maxi, mini, which would each run it again" in err
    err = kd("rm", "shared-sft-s1", "--yes")[2]
    assert "the experiment maxi would run" in err and "the experiment mini would run" in err


@pytest.mark.parametrize("text", ["", "- a\n", "name: [", "steps: 3\n", "name: x\nsteps: {}\n"])
def test_files_that_are_no_experiment_stand_for_their_own_name(tmp_path: Path, text: str) -> None:
    file = tmp_path / "x.yaml"
    file.write_text(text, "utf-8")
    found = kept_runs(file)
    assert found.name == "x" and found.names("x-kd-s1") and not found.names("xy-kd-s1")


def test_every_planned_run_of_a_shipped_experiment_is_found() -> None:
    for name in experiment_names():
        file = find_experiment(name)
        kept = kept_runs(file)
        assert kept.name == name
        assert all(kept.names(run.name) for run in load_sweep(file)[1])


WORD = st.from_regex(r"[a-z][a-z0-9-]{0,23}", fullmatch=True)


@settings(max_examples=20, deadline=None)
@given(WORD, st.none() | WORD, WORD, st.booleans())
def test_every_planned_run_is_found(
    tmp_path_factory: pytest.TempPathFactory, name: str, runs: str | None, step: str, varied: bool
) -> None:
    vary = {"trainer.learning_rate": [0.000123456789], "seed": [1, 2]} if varied else {}
    values = {"name": name, "runs": runs, "steps": {step: STEP}, "vary": vary}
    file = tmp_path_factory.getbasetemp() / f"{name}.yaml"
    file.write_text(yaml.safe_dump(values), "utf-8")
    planned = plan_sweep(SweepConfig.model_validate(values), Path())
    assert all(kept_runs(file).names(run.name) for run in planned)
