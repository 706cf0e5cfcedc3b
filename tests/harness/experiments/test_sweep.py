"""Experiments: what is planned, and what is done, killed, and gone on with."""

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
    return {one.name: one for one in load_sweep(sweep_file(tmp_path, **values))[1]}


# ---------------------------------------------------------------- the plan


def test_steps_alone_are_one_run_each_in_the_order_of_need(tmp_path: Path) -> None:
    shuffled = dict(reversed(sweep_steps().items()))
    found = plan(tmp_path, steps=shuffled)
    assert list(found) == ["x-kd", "x-expert", "x-wise", "x-dae", "x-scores"]
    assert found["x-dae"].needs == ("x-expert", "x-kd")
    assert found["x-dae"].config.student.model == "x-kd"  # type: ignore[union-attr]
    assert found["x-scores"].config.checkpoints == [  # type: ignore[union-attr]
        "x-kd",
        "x-expert",
        "x-dae",
        "x-wise-alpha-0.3",
        "x-wise-alpha-0.6",
    ]


def test_a_step_runs_once_for_each_choice_that_reaches_it(tmp_path: Path) -> None:
    vary = {"dae.trainer.temperature": [1, 2], "data.domain_share": [0.1, 0.2], "seed": [1, 2, 3]}
    found = plan(tmp_path, steps=sweep_steps(), vary=vary)
    count = {step: sum(one.step == step for one in found.values()) for step in sweep_steps()}
    assert count == {"kd": 3, "expert": 3, "dae": 12, "wise": 3, "scores": 12}
    one = found["x-dae-temperature2-domain_share0.1-s3"]
    config: Any = one.config
    assert (config.seed, config.trainer.temperature, config.data.domain_share) == (3, 2, 0.1)
    assert (config.student.model, config.expert.model) == ("x-kd-s3", "x-expert-s3")
    assert found["x-kd-s3"].settings == {"seed": 3}
    # What is asked stays the same, whatever the seed of the training.
    assert found["x-scores-temperature1-domain_share0.1-s2"].config.seed == 0  # type: ignore[union-attr]
    assert len({config_hash(one.config) for one in found.values()}) == len(found)


def test_a_list_of_settings_is_taken_in_turn(tmp_path: Path) -> None:
    vary = [{"dae.trainer.temperature": 1, "seed": [1, 2]}, {"dae.trainer.temperature": 4}]
    found = plan(tmp_path, steps=sweep_steps(), vary=vary)
    names = [name for name, one in found.items() if one.step == "dae"]
    assert names == ["x-dae-temperature1-s1", "x-dae-temperature1-s2", "x-dae-temperature4"]


def test_a_field_written_nowhere_belongs_to_every_step_that_knows_it(tmp_path: Path) -> None:
    found = plan(tmp_path, steps=sweep_steps(), vary={"trainer.temperature": [2]})
    assert {one.step for one in found.values() if one.settings} == {
        "kd",
        "expert",
        "dae",
        "wise",
        "scores",
    }
    assert found["x-kd-temperature2"].config.trainer.temperature == 2  # type: ignore[union-attr]
    assert not hasattr(found["x-expert-temperature2"].config.trainer, "temperature")  # type: ignore[union-attr]


def test_configs_come_from_files_and_presets_too(tmp_path: Path) -> None:
    (tmp_path / "kd.yaml").write_text(yaml.safe_dump(sweep_steps()["kd"]), "utf-8")
    found = plan(
        tmp_path,
        steps={
            "kd": "kd.yaml",
            "hot": {"config": "kd.yaml", "trainer": {"temperature": 3}},
            "late": {"preset": "kd-laptop", "needs": "hot"},
        },
    )
    hot: Any = found["x-hot"].config
    assert (hot.trainer.temperature, hot.trainer.max_steps) == (3, 2)
    assert found["x-late"].needs == ("x-hot",)
    assert found["x-late"].config.name == "x-late"  # type: ignore[union-attr]


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
def test_mistakes_are_named(tmp_path: Path, values: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        plan(tmp_path, **values)


def test_names_stay_short_and_apart() -> None:
    keys = ["kd.trainer.temperature", "dae.trainer.temperature", "seed"]
    assert run_name("x", "dae", {"kd.trainer.temperature": 1, "seed": 2}, keys) == (
        "x-dae-kd.trainer.temperature1-s2"
    )
    long = [run_name("x" * 30, "dae", {"data.a": n, "data.b" * 6: n}, []) for n in (1, 2)]
    assert long[0] != long[1] and all(len(name) <= 64 for name in long)
    paths = [run_name("x", "kd", {"teacher": t}, ["teacher"]) for t in ("/a/model", "/b/model")]
    assert paths[0] != paths[1]


def test_the_shipped_experiments_can_be_planned() -> None:
    assert experiment_names() == ["baselines", "demo", "replication"]
    _, planned = load_sweep(find_experiment("baselines"))
    assert len(planned) == 3 * 8 and len({one.name for one in planned}) == len(planned)
    tokens = {
        one.config.trainer.max_tokens  # type: ignore[union-attr]
        for one in planned
        if one.config.method in ("sft", "kd", "dae")
    }
    assert len(tokens) == 1, "methods are compared at equal tokens"
    with pytest.raises(ConfigError, match="no such file or shipped experiment") as told:
        find_experiment("baseline")
    assert "baselines" in told.value.hint


# ---------------------------------------------------------------- the work


def trained_to(step: int, paths: Paths) -> Run:
    """Wait for the first run to come that far."""

    def ready() -> Run | None:
        if not paths.store.exists():
            return None
        with Store(paths.store) as store:
            run = store.run("x-kd")
        return run if run is not None and run.step >= step else None

    found: Run = wait_until(ready, 90)
    return found


@pytest.mark.slow
def test_an_experiment_end_to_end_and_again(
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
    for words in ("Does it?", "kdharness sweep x.yaml", "x-wise-alpha-0.6", "<svg"):
        assert words in text, words
    changed = sweep_steps(str(tiny_teacher))
    changed["kd"] = {**changed["kd"], "trainer": {**TRAINER, "max_steps": 3}}
    code, _, err = kd("sweep", str(sweep_file(tmp_path, steps=changed)))
    assert code == 1 and "'x-kd' already exists with different settings" in err


@pytest.mark.slow
def test_a_failure_stops_only_what_needs_it(
    kd: CommandLine, tiny_teacher: Path, tmp_path: Path
) -> None:
    some = sweep_steps(str(tiny_teacher))
    some = {name: some[name] for name in ("kd", "expert", "dae")}
    some["expert"] = {**some["expert"], "trainer": {**TRAINER, "max_loss": 1e-3}}
    code, out, _ = kd(
        "sweep",
        str(sweep_file(tmp_path, steps={**some, "other": {**sweep_steps()["expert"]}})),
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
    some = {"kd": sweep_steps(str(tiny_teacher))["kd"]}
    some["kd"] = {**some["kd"], "trainer": {**TRAINER, "max_steps": 2000}}
    file = str(sweep_file(tmp_path, steps=some))
    process = start_command("--home", str(paths.home), "sweep", file, stdout=subprocess.DEVNULL)
    trained_to(2, paths)
    process.send_signal(signal.SIGINT)
    _, err = process.communicate(timeout=60)
    assert process.returncode == 130 and "run the same command again to continue" in err
    code, out, _ = kd("sweep", file, "--dry-run", "--format", "json")
    assert code == 0 and json.loads(out)[0]["status"] == "stopped"
    assert list(paths.run("x-kd").glob("checkpoint-*"))


@pytest.mark.slow
def test_a_killed_sweep_goes_on_where_it_was(
    kd: CommandLine, paths: Paths, tiny_teacher: Path, tmp_path: Path
) -> None:
    some = sweep_steps(str(tiny_teacher))
    some = {name: some[name] for name in ("kd", "expert")}
    some["kd"] = {**some["kd"], "trainer": {**TRAINER, "max_steps": 60, "save_every": 5}}
    file = str(sweep_file(tmp_path, steps=some, vary={"expert.seed": [1, 2]}))
    process = subprocess.Popen(
        [sys.executable, "-m", "kdharness.harness.cli", "--home", str(paths.home), "sweep", file],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    run = trained_to(6, paths)
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
