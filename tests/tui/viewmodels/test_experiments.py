"""Experiment plans: line numbers of fields, errors, and run counts."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from kdharness.harness.errors import ConfigError
from kdharness.harness.experiments.expand import PlannedRun, find_experiment
from kdharness.harness.paths import Paths
from kdharness.harness.store import Store
from kdharness.harness.types import Run, RunStatus
from kdharness.tui.viewmodels import experiments as viewmodel
from kdharness.tui.viewmodels.experiments import (
    PlanCache,
    counted,
    line_of,
    load,
    places,
    read_plan,
)

# ---------------------------------------------------------------- imports


@pytest.mark.slow
def test_experiment_plans_do_not_import_model_libraries() -> None:
    code = (
        "import sys, kdharness.tui.screens.experiments, kdharness.harness.experiments.detached;"
        "from kdharness.tui.viewmodels.experiments import read_plan;"
        "from kdharness.harness.experiments.expand import find_experiment;"
        "assert len(read_plan(find_experiment('baselines')).planned) == 24;"
        "print(sorted({'torch', 'openai', 'transformers', 'matplotlib'} & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


# ---------------------------------------------------------------- parts of a plan


def test_field_paths_map_to_lines() -> None:
    text = "name: x\nsteps:\n  kd: &a\n    data: {train: [a,\n      b]}\n  e: *a\n"
    assert [
        line_of(text, field_path.split("."))
        for field_path in (
            "name",
            "steps",
            "steps.kd",
            "steps.kd.data.train.1",
            "steps.kd.data.heldout",
            "steps.e.data",
            "vary",
            "steps.kd.data.train.7",
        )
    ] == [1, 2, 3, 5, 4, 4, 0, 4]
    assert line_of("a: [", ["a"]) == 0
    error = ConfigError("invalid YAML: x", where="/a/b.yaml:7")
    assert places("", error, "/a/b.yaml") == {7: ["invalid YAML: x"]}
    error = ConfigError("steps that need each other: a, b", where="/a/b.yaml")
    assert places("name: x", error, "/a/b.yaml") == {0: ["steps that need each other: a, b"]}


def test_recursive_yaml_is_reported_at_its_line(tmp_path: Path) -> None:
    file = tmp_path / "loop.yaml"
    file.write_text("name: x\nsteps: {kd: &a {method: kd, data: *a}}\n")
    wrong = read_plan(file).wrong
    assert list(wrong) == [2] and "refers to its own ancestor" in wrong[2][0], wrong


def test_run_counts_are_ordered_by_status() -> None:
    rows = [{"status": s} for s in ("to do", "failed", "finished", "to do", "running")]
    assert counted(rows) == "5 runs: 1 finished, 1 running, 1 failed, 2 to do"
    assert counted([]) == "0 runs"


def test_rows_of_the_chosen_plan_are_worked_out_once(
    paths: Paths, monkeypatch: pytest.MonkeyPatch
) -> None:
    book, demo, plans = PlanCache(), find_experiment("demo"), []
    real = viewmodel.plan_rows

    def counting(planned: Any, found: Any) -> Any:
        plans.append(planned)
        return real(planned, found)

    monkeypatch.setattr(viewmodel, "plan_rows", counting)
    with Store(paths.store) as store:
        view = load(book, paths, store, demo)
    assert sum(planned is view.plan.planned for planned in plans) == 1
    assert len(plans) == len(view.rows) > 1


def test_status_without_own_process_is_that_of_the_runs(paths: Paths) -> None:
    """An experiment run in a terminal (as `demo` is) stores its runs, but no process."""
    book = PlanCache()
    demo = find_experiment("demo")
    planned = book.plan(demo).planned
    with Store(paths.store) as store:

        def row() -> tuple[str, int, int]:
            rows = load(book, paths, store, demo).rows
            found = next(row for row in rows if row["name"] == "demo")
            return found["status"], found["step"], found["max_steps"]

        def add(entry: PlannedRun, identity: str, status: RunStatus) -> None:
            store.add_run(Run(entry.name, "sft", status, {}, identity, "/runs", 1.0))

        assert row() == ("", 0, 0)
        for entry, identity in planned[:-1]:
            add(entry, identity, RunStatus.FINISHED)
        assert row() == ("to do", len(planned) - 1, len(planned))
        add(*planned[-1], RunStatus.FAILED)
        assert row() == ("failed", len(planned) - 1, len(planned))
        store.update_run(planned[-1][0].name, status=RunStatus.FINISHED)
        assert row() == ("finished", len(planned), len(planned))
