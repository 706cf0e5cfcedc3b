"""Experiment files: stored copies, listing, and unreadable files."""

from __future__ import annotations

from pathlib import Path

import pytest
import yaml

from kdharness.harness.errors import ConfigError
from kdharness.harness.experiments.detached import start_sweep, stored_sweep
from kdharness.harness.experiments.expand import keep_copy, load_sweep
from kdharness.harness.experiments.library import experiments, read_experiment
from kdharness.harness.paths import Paths
from support.experiments import STEPS, sweep_file
from support.workers import Workers


def test_stored_experiment_is_self_contained(
    workers: Workers, tmp_path: Path, paths: Paths
) -> None:
    (tmp_path / "rows.jsonl").write_text("{}\n")
    kd = {**STEPS["kd"], "data": {"train": {"path": "rows.jsonl"}}}
    (tmp_path / "kd.yaml").write_text(yaml.safe_dump(kd))
    steps = {**STEPS, "kd": {"config": "kd.yaml"}, "late": {"preset": "kd-laptop", "needs": "kd"}}
    file = sweep_file(
        tmp_path,
        steps=steps,
        vary={"seed": [1, 2], "kd.trainer.max_steps": [2, 3], "expert.seed": [4]},
    )
    _, planned = load_sweep(file)
    run = start_sweep(paths, file)
    (tmp_path / "kd.yaml").unlink()
    # The order matters: it is the order of execution and of the settings in run names.
    assert stored_sweep(paths, run)[1] == planned
    stored_config = paths.run(run.id) / "config.yaml"
    stored_config.write_text(stored_config.read_text().replace("max_length: 96", "max_length: 97"))
    with pytest.raises(ConfigError, match="no longer matches this run"):
        stored_sweep(paths, run)


def test_kept_copy_can_be_planned_from_its_folder(tmp_path: Path, paths: Paths) -> None:
    file = sweep_file(tmp_path, steps=STEPS, question="Why?")
    keep_copy(paths, file, load_sweep(file)[0])
    kept = paths.sweeps / "x.yaml"
    assert kept.read_text() == file.read_text()
    (tmp_path / "kd.yaml").write_text(yaml.safe_dump(STEPS["kd"]))
    file = sweep_file(tmp_path, question="Why?", steps={**STEPS, "kd": "kd.yaml"})
    sweep, planned = load_sweep(file, ["vary.seed=[1, 2]"])
    keep_copy(paths, file, sweep)
    assert load_sweep(kept)[1] == planned and len(planned) == 8
    assert "claims" not in kept.read_text()
    assert next(experiment.origin for experiment in experiments(paths)) == "kept"
    assert read_experiment(kept, "kept").question == "Why?"


def test_unreadable_file_is_listed_by_its_name(tmp_path: Path) -> None:
    for number, content in enumerate([b"a: [", b"- 1", b"\xff\xfe", b"x" * 1_100_000]):
        file = tmp_path / f"e{number}.yaml"
        file.write_bytes(content)
        assert (read_experiment(file, "kept").name, read_experiment(file, "kept").question) == (
            f"e{number}",
            "",
        )
    assert read_experiment(tmp_path / "gone.yaml", "kept").name == "gone"
