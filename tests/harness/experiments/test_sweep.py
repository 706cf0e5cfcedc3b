"""Experiments: planning, execution, failures, kills and resumption."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml

from kdharness.harness.config.training import config_hash
from kdharness.harness.errors import ConfigError
from kdharness.harness.experiments.expand import (
    PlannedRun,
    experiment_names,
    find_experiment,
    load_sweep,
    run_name,
)
from kdharness.harness.paths import Paths
from kdharness.harness.runs.status import effective_status
from kdharness.harness.store import Store
from kdharness.harness.types import Run, RunStatus
from support.commands import CommandLine, start_command
from support.experiments import TRAINER, sweep_file, sweep_steps
from support.waiting import wait_until


def plan(tmp_path: Path, **values: Any) -> dict[str, PlannedRun]:
    return {run.name: run for run in load_sweep(sweep_file(tmp_path, **values))[1]}


# ---------------------------------------------------------------- the plan


def test_each_step_is_one_run_in_dependency_order(tmp_path: Path) -> None:
    shuffled = dict(reversed(sweep_steps().items()))
    planned = plan(tmp_path, steps=shuffled)
    assert list(planned) == ["x-kd", "x-expert", "x-wise", "x-dae", "x-scores"]
    assert planned["x-dae"].needs == ("x-expert", "x-kd")
    assert planned["x-dae"].config.student.model == "x-kd"  # type: ignore[union-attr]
    assert planned["x-scores"].config.checkpoints == [  # type: ignore[union-attr]
        "x-kd",
        "x-expert",
        "x-dae",
        "x-wise-alpha-0.3",
        "x-wise-alpha-0.6",
    ]


@pytest.mark.parametrize("role", ["checkpoints", "baseline"])
def test_an_adapter_that_vllm_would_have_to_serve_is_refused_when_planned(
    tmp_path: Path, role: str
) -> None:
    steps = sweep_steps()
    steps["expert"]["student"] = {"model": "kd", "lora": {"r": 2}}
    named = {"checkpoints": ["kd"], role: ["expert"] if role == "checkpoints" else "expert"}
    scores = {"method": "eval", "benches": ["shop"], "answer_engine": "vllm", **named}
    steps["scores"] = scores
    with pytest.raises(ConfigError, match="expert trains an adapter") as caught:
        plan(tmp_path, steps=steps)
    assert caught.value.where.endswith("steps.scores.answer_engine")
    for change in ({"benches": ["heldout"]}, {"answer_engine": None}, {"answer_engine": "local"}):
        assert "x-scores" in plan(tmp_path, steps={**steps, "scores": {**scores, **change}})


def test_step_runs_once_per_combination_of_settings_that_affect_it(tmp_path: Path) -> None:
    vary = {"dae.trainer.temperature": [1, 2], "data.domain_share": [0.1, 0.2], "seed": [1, 2, 3]}
    planned = plan(tmp_path, steps=sweep_steps(), vary=vary)
    count = {step: sum(run.step == step for run in planned.values()) for step in sweep_steps()}
    assert count == {"kd": 3, "expert": 3, "dae": 12, "wise": 3, "scores": 12}
    run = planned["x-dae-temperature2-domain_share0.1-s3"]
    config: Any = run.config
    assert (config.seed, config.trainer.temperature, config.data.domain_share) == (3, 2, 0.1)
    assert (config.student.model, config.expert.model) == ("x-kd-s3", "x-expert-s3")
    assert planned["x-kd-s3"].settings == {"seed": 3}
    # The evaluation seed stays the same for every training seed.
    assert planned["x-scores-temperature1-domain_share0.1-s2"].config.seed == 0  # type: ignore[union-attr]
    assert len({config_hash(run.config) for run in planned.values()}) == len(planned)


def test_list_of_settings_is_not_crossed(tmp_path: Path) -> None:
    vary = [{"dae.trainer.temperature": 1, "seed": [1, 2]}, {"dae.trainer.temperature": 4}]
    planned = plan(tmp_path, steps=sweep_steps(), vary=vary)
    names = [name for name, run in planned.items() if run.step == "dae"]
    assert names == ["x-dae-temperature1-s1", "x-dae-temperature1-s2", "x-dae-temperature4"]


def test_unset_field_applies_to_every_step_that_supports_it(tmp_path: Path) -> None:
    planned = plan(tmp_path, steps=sweep_steps(), vary={"trainer.temperature": [2]})
    assert {run.step for run in planned.values() if run.settings} == {
        "kd",
        "expert",
        "dae",
        "wise",
        "scores",
    }
    assert planned["x-kd-temperature2"].config.trainer.temperature == 2  # type: ignore[union-attr]
    assert not hasattr(planned["x-expert-temperature2"].config.trainer, "temperature")  # type: ignore[union-attr]


def test_steps_from_config_files_and_presets(tmp_path: Path) -> None:
    (tmp_path / "kd.yaml").write_text(yaml.safe_dump(sweep_steps()["kd"]), "utf-8")
    planned = plan(
        tmp_path,
        steps={
            "kd": "kd.yaml",
            "hot": {"config": "kd.yaml", "trainer": {"temperature": 3}},
            "late": {"preset": "kd-laptop", "needs": "hot"},
        },
    )
    hot: Any = planned["x-hot"].config
    assert (hot.trainer.temperature, hot.trainer.max_steps) == (3, 2)
    assert planned["x-late"].needs == ("x-hot",)
    assert planned["x-late"].config.name == "x-late"  # type: ignore[union-attr]


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"steps": {}}, "steps"),
        ({"steps": {"a.b": {}}}, "invalid step name 'a.b'"),
        ({"steps": {"a": 3}}, "a step must be a run config"),
        ({"steps": {"a": {"method": "sft"}}}, "steps.a"),
        ({"steps": {"a": "no.yaml"}}, "cannot read no.yaml"),
        ({"steps": {"a": {**sweep_steps()["kd"], "needs": ["b"]}}}, "unknown step b in needs"),
        (
            {
                "steps": {
                    "a": {**sweep_steps()["expert"], "student": "b"},
                    "b": {**sweep_steps()["expert"], "student": "a"},
                }
            },
            "circular dependency between steps: a, b",
        ),
        (
            {"steps": sweep_steps(), "vary": {"trainer.tempo": [1]}},
            "no step has a field 'trainer.tempo'",
        ),
        ({"steps": sweep_steps(), "vary": {"seed": []}}, "no values"),
        (
            {"steps": {**sweep_steps(), "more": {**sweep_steps()["expert"], "student": "wise"}}},
            "2 checkpoints",
        ),
        ({"steps": sweep_steps(), "colour": 1}, "colour"),
    ],
)
def test_invalid_experiments_are_reported(
    tmp_path: Path, values: dict[str, Any], message: str
) -> None:
    with pytest.raises(ConfigError, match=message):
        plan(tmp_path, **values)


def test_run_names_are_short_and_unique() -> None:
    keys = ["kd.trainer.temperature", "dae.trainer.temperature", "seed"]
    assert run_name("x", "dae", {"kd.trainer.temperature": 1, "seed": 2}, keys) == (
        "x-dae-kd.trainer.temperature1-s2"
    )
    long = [run_name("x" * 30, "dae", {"data.a": n, "data.b" * 6: n}, []) for n in (1, 2)]
    assert long[0] != long[1] and all(len(name) <= 64 for name in long)
    paths = [run_name("x", "kd", {"teacher": t}, ["teacher"]) for t in ("/a/model", "/b/model")]
    assert paths[0] != paths[1]


def test_shipped_experiments_can_be_planned() -> None:
    assert {"baselines", "demo", "referee", "replication"} < set(experiment_names())
    assert not any(name.startswith("_") for name in experiment_names())
    _, planned = load_sweep(find_experiment("baselines"))
    assert len(planned) == 3 * 8 and len({run.name for run in planned}) == len(planned)
    tokens = {
        run.config.trainer.max_tokens  # type: ignore[union-attr]
        for run in planned
        if run.config.method in ("sft", "kd", "dae")
    }
    assert len(tokens) == 1, "methods are compared at equal tokens"
    sweep, planned = load_sweep(find_experiment("referee"))
    rates = {run.config.trainer.learning_rate for run in planned if run.step == "sft"}  # type: ignore[union-attr]
    assert len(rates) == 5
    assert {claim.frontier for claim in sweep.claims} == {"sft"}
    with pytest.raises(ConfigError, match="no such file or shipped experiment") as caught:
        find_experiment("baseline")
    assert "baselines" in caught.value.hint


# ---------------------------------------------------------------- execution


def wait_for_step(step: int, paths: Paths) -> Run:
    """Wait until the first run has reached `step`."""

    def ready() -> Run | None:
        if not paths.store.exists():
            return None
        with Store(paths.store) as store:
            run = store.run("x-kd")
        return run if run is not None and run.step >= step else None

    run: Run = wait_until(ready, 90)
    return run


@pytest.mark.slow
def test_experiment_end_to_end_and_repeated(
    kd: CommandLine, paths: Paths, tiny_teacher: Path, tmp_path: Path
) -> None:
    file = str(sweep_file(tmp_path, steps=sweep_steps(str(tiny_teacher)), question="Does it?"))
    code, out, _ = kd("sweep", file, "--dry-run", "--format", "json")
    assert code == 0 and {row["status"] for row in json.loads(out)} == {"new"}
    code, out, err = kd("sweep", file, "--format", "json")
    assert code == 0, err
    assert [row["status"] for row in json.loads(out)] == ["finished"] * 5
    lines = [line for line in err.splitlines() if line.startswith("[")]
    assert len(lines) == 5 and lines[0].startswith("[1/5] x-kd finished in")
    code, out, _ = kd("leaderboard", "--format", "json")
    assert {row["checkpoint"] for row in json.loads(out)} == {
        "x-kd",
        "x-expert",
        "x-dae",
        "x-wise-alpha-0.3",
        "x-wise-alpha-0.6",
    }
    code, out, err = kd("sweep", file, "--format", "json")
    assert code == 0 and [r["status"] for r in json.loads(out)] == ["done before"] * 5
    assert (paths.home / "sweeps" / "x.yaml").read_text("utf-8") == Path(file).read_text("utf-8")
    code, out, _ = kd(
        "tradeoff",
        "--domain",
        "heldout:domain_loss",
        "--general",
        "heldout:general_loss",
        "--format",
        "json",
    )
    view = json.loads(out)
    assert view["statistics"]["curve"] == ["x-wise-alpha-0.3", "x-wise-alpha-0.6"]
    page = tmp_path / "report.html"
    code, _, err = kd("report", "--output", str(page))
    assert code == 0, err
    text = page.read_text("utf-8")
    for expected in ("Does it?", "kdharness sweep x.yaml", "x-wise-alpha-0.6", "<svg"):
        assert expected in text, expected
    changed = sweep_steps(str(tiny_teacher))
    changed["kd"] = {**changed["kd"], "trainer": {**TRAINER, "max_steps": 3}}
    code, _, err = kd("sweep", str(sweep_file(tmp_path, steps=changed)))
    assert code == 1 and "'x-kd' already exists with different settings" in err


@pytest.mark.slow
def test_failed_step_skips_only_its_dependents(
    kd: CommandLine, tiny_teacher: Path, tmp_path: Path
) -> None:
    steps = sweep_steps(str(tiny_teacher))
    steps = {name: steps[name] for name in ("kd", "expert", "dae")}
    steps["expert"] = {**steps["expert"], "trainer": {**TRAINER, "max_loss": 1e-3}}
    code, out, _ = kd(
        "sweep",
        str(sweep_file(tmp_path, steps={**steps, "other": {**sweep_steps()["expert"]}})),
        "--format",
        "json",
    )
    rows = {row["step"]: row for row in json.loads(out)}
    assert code == 1
    assert {step: row["status"] for step, row in rows.items()} == {
        "kd": "finished",
        "expert": "failed",
        "dae": "skipped",
        "other": "finished",
    }
    assert rows["dae"]["note"] == "needs x-expert, which failed"
    assert "kdharness logs x-expert" in rows["expert"]["note"]


@pytest.mark.slow
def test_ctrl_c_stops_the_run_with_a_checkpoint(
    kd: CommandLine, paths: Paths, tiny_teacher: Path, tmp_path: Path
) -> None:
    steps = {"kd": sweep_steps(str(tiny_teacher))["kd"]}
    steps["kd"] = {**steps["kd"], "trainer": {**TRAINER, "max_steps": 2000}}
    file = str(sweep_file(tmp_path, steps=steps))
    process = start_command("--home", str(paths.home), "sweep", file, stdout=subprocess.DEVNULL)
    wait_for_step(2, paths)
    process.send_signal(signal.SIGINT)
    _, err = process.communicate(timeout=60)
    assert process.returncode == 130 and "run the same command again to continue" in err
    code, out, _ = kd("sweep", file, "--dry-run", "--format", "json")
    assert code == 0 and json.loads(out)[0]["status"] == "stopped"
    assert list(paths.run("x-kd").glob("checkpoint-*"))


@pytest.mark.slow
def test_killed_sweep_resumes_where_it_stopped(
    kd: CommandLine, paths: Paths, tiny_teacher: Path, tmp_path: Path
) -> None:
    steps = sweep_steps(str(tiny_teacher))
    steps = {name: steps[name] for name in ("kd", "expert")}
    steps["kd"] = {**steps["kd"], "trainer": {**TRAINER, "max_steps": 60, "save_every": 5}}
    file = str(sweep_file(tmp_path, steps=steps, vary={"expert.seed": [1, 2]}))
    process = subprocess.Popen(
        [sys.executable, "-m", "kdharness.harness.cli", "--home", str(paths.home), "sweep", file],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    run = wait_for_step(6, paths)
    assert run.pid is not None and run.status is RunStatus.RUNNING
    process.kill()
    process.wait()
    os.kill(run.pid, signal.SIGKILL)
    wait_until(lambda: effective_status(run) is not RunStatus.RUNNING, 90)
    code, out, err = kd("sweep", file, "--format", "json")
    assert code == 0, err
    assert {row["run"]: row["status"] for row in json.loads(out)} == {
        "x-kd": "finished",
        "x-expert-s1": "finished",
        "x-expert-s2": "finished",
    }
    with Store(paths.store) as store:
        assert any("resuming from" in event["message"] for event in store.events("x-kd"))
        assert len(store.runs()) == 3
