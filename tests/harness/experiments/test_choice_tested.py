"""The experiment that tests a choice: checked before the search, with the same options."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import yaml

from kdharness.harness import cli
from kdharness.harness.config.evaluation import EvalConfig
from kdharness.harness.errors import ConfigError
from kdharness.harness.experiments.chosen_test import check_test, load_test
from kdharness.harness.experiments.expand import (
    experiment_names,
    find_experiment,
    keep_copy,
    load_sweep,
)
from kdharness.harness.paths import Paths
from kdharness.harness.store import Store
from support.scored_store import add_checkpoint, verdict
from support.workers import Workers

SHOP = {"train": {"path": "shop:train", "kind": "domain"}}
STEPS: dict[str, Any] = {
    "expert": {"method": "sft", "student": "start", "data": SHOP},
    "dae": {"method": "dae", "student": "start", "expert": "expert", "data": SHOP},
}
CHOOSE = {
    "of": "dae",
    "reference": "start",
    "expert": "expert",
    "general": "heldout:general_loss",
    "domain": "validation:score",
    "test": "test.yaml",
}
CLAIM = {"text": "searched", "of": "dae", "than": "expert", "metric": "heldout:general_loss"}
SEARCH: dict[str, Any] = {
    "name": "x",
    "steps": STEPS,
    "vary": [{"seed": 1}, {"dae.trainer.temperature": 2, "seed": 1}],
    "choose": CHOOSE,
}
TEST: dict[str, Any] = {
    "name": "x-test",
    "steps": STEPS,
    "vary": {"seed": [11]},
    "claims": [{**CLAIM, "text": "tested"}],
}
SCORED = {"method": "eval", "checkpoints": ["dae"], "benches": ["mt-bench"], "judge": ["local:toy"]}
SCORES = {
    "start": (2.0, 0.2),
    "x-expert-s1": (2.8, 0.9),
    "x-dae-s1": (2.01, 0.5),
    "x-dae-temperature2-s1": (2.02, 0.7),
}


def written(folder: Path, search: dict[str, Any], test: dict[str, Any] | None = None) -> Path:
    path = folder / "x.yaml"
    path.write_text(yaml.safe_dump({**SEARCH, **search}, sort_keys=False), "utf-8")
    (folder / "test.yaml").write_text(
        yaml.safe_dump({**TEST, **(test or {})}, sort_keys=False), "utf-8"
    )
    return path


def fill(paths: Paths) -> None:
    with Store(paths.store) as store:
        for name, known in SCORES.items():
            add_checkpoint(store, name, "sft", path="")
            axes = (("heldout", "general_loss"), ("validation", "score"))
            for value, (bench, metric) in zip(known, axes, strict=True):
                store.add_judgments(
                    verdict(name, i, value + i / 1000, bench=bench, metric=metric, category="")
                    for i in range(20)
                )


SFT = {"expert": STEPS["expert"], "sft": STEPS["expert"]}
BAD: list[tuple[dict[str, Any], dict[str, Any], str]] = [
    ({"choose": {**CHOOSE, "test": "nosuch-test"}}, {}, "choose.test: no such file or shipped"),
    ({"choose": {**CHOOSE, "test": "x.yaml"}}, {}, "x has no claims, so it cannot test a choice"),
    ({"choose": {**CHOOSE, "test": "x.yaml"}, "claims": [CLAIM]}, {}, "x chooses settings itself"),
    ({}, {"claims": []}, "x-test has no claims"),
    (
        {},
        {"steps": SFT, "claims": [{**CLAIM, "of": "sft"}]},
        "x-test has no step 'dae', so dae.trainer.temperature cannot be set in it",
    ),
    ({}, {"steps": {**STEPS, "dae": STEPS["expert"]}}, "temperature"),
    ({}, {"vary": {"dae.trainer.temperature": [1]}}, "x-test varies dae.trainer.temperature"),
    ({}, {"vary": {"trainer.temperature": [1]}}, "x-test varies dae.trainer.temperature"),
    ({}, {"steps": {}}, "steps"),
]


@pytest.mark.parametrize(("search", "test", "message"), BAD)
@pytest.mark.parametrize("command", [["replicate"], ["replicate", "--smoke"], ["sweep"]])
def test_a_choice_that_could_not_be_tested_is_refused_before_the_search(
    paths: Paths,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    command: list[str],
    search: dict[str, Any],
    test: dict[str, Any],
    message: str,
) -> None:
    file = written(tmp_path, search, test)
    args = ["--home", str(paths.home), *command, str(file), "--dry-run"]
    assert cli.run(args) == 2
    assert message in capsys.readouterr().err


def test_every_shipped_choice_can_be_tested() -> None:
    for name in experiment_names():
        sweep, planned = load_sweep(find_experiment(name))
        check_test(find_experiment(name), sweep, planned)


@pytest.mark.slow
@pytest.mark.parametrize("form", ["table", "json"])
def test_the_searchs_own_claims_are_answered_too(
    workers: Workers,
    paths: Paths,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    form: str,
) -> None:
    file = written(tmp_path, {"claims": [CLAIM]})
    fill(paths)
    assert cli.run(["--home", str(paths.home), "replicate", str(file), "--format", form]) == 0
    out = capsys.readouterr().out
    if form == "json":
        claims = [row["claim"] for row in json.loads(out)]
        assert claims == ["searched", "searched", "tested"]
    else:
        assert out.count(": searched\n") == 2 and out.count(": tested\n") == 1
    nothing = written(tmp_path, {"claims": [CLAIM], "choose": {**CHOOSE, "keep": 1.2}})
    assert cli.run(["--home", str(paths.home), "replicate", str(nothing), "--format", form]) == 0
    out = capsys.readouterr().out
    assert "tested\n" not in out.replace("nothing is tested\n", "")
    assert form == "table" or len(json.loads(out)) == 2


@pytest.mark.slow
def test_options_reach_the_test_or_are_refused(
    workers: Workers, paths: Paths, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    steps = {**STEPS, "scores": SCORED}
    file = written(tmp_path, {}, {"steps": steps})
    fill(paths)
    command = ["--home", str(paths.home), "replicate", str(file)]
    assert cli.run([*command, "--judge", "openai:real"]) == 0, capsys.readouterr().err
    with Store(paths.store) as store:
        run = store.run("x-test-scores-s11")
    assert run is not None
    assert run.config["judge"] == ["openai:real"]
    file = written(tmp_path, {"vary": {"dae.trainer.temperature": [1, 2], "seed": [1]}})
    assert cli.run([*command, "--seeds", "2", "--dry-run"]) == 2
    assert "its test needs seeds of its own" in capsys.readouterr().err
    assert cli.run([*command, "--judge", "openai:real", "--dry-run"]) == 2
    assert "without judged answers" in capsys.readouterr().err


def test_a_kept_search_still_finds_its_test(paths: Paths, tmp_path: Path) -> None:
    file = written(tmp_path, {})
    keep_copy(paths, file, load_sweep(file)[0])
    kept = paths.sweeps / "x.yaml"
    sweep, planned = load_sweep(kept)
    check_test(kept, sweep, planned)
    found, test, runs = load_test(kept, sweep, {"dae.trainer.temperature": 2}, ["vary.seed=[5]"])
    assert found == tmp_path / "test.yaml" and test.name == "x-test"
    assert [run.name for run in runs] == ["x-test-expert-s5", "x-test-dae-s5"]
    assert not any(isinstance(run.config, EvalConfig) for run in runs)
    (tmp_path / "test.yaml").unlink()
    with pytest.raises(ConfigError, match=r"choose\.test: no such file"):
        check_test(kept, sweep, planned)
