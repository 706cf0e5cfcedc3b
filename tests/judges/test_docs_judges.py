"""The guide's worked example runs, and it documents every benchmark and label."""

from __future__ import annotations

import json
import re
import sys
import types
from pathlib import Path

import pytest

from kdharness.harness import registry
from kdharness.harness.analysis.leaderboard import leaderboard
from kdharness.harness.config.evaluation import EvalConfig
from kdharness.harness.evaluation import pipeline
from kdharness.harness.paths import Paths
from kdharness.harness.protocols import NullReporter
from kdharness.harness.store import Store
from kdharness.judges.audit.report_card import LABELS
from kdharness.judges.benchmarks.rows import read_rows

GUIDE = (Path(__file__).resolve().parents[2] / "docs" / "judges.md").read_text("utf-8")


def code_block(language: str) -> str:
    return re.findall(rf"```{language}\n(.*?)```", GUIDE, re.DOTALL)[0]


def test_documented_worked_example_runs(
    paths: Paths, tiny_teacher: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    module = types.ModuleType("capitals_example")
    exec(compile(code_block("python"), "judges.md", "exec"), module.__dict__)
    monkeypatch.setitem(sys.modules, "capitals_example", module)
    monkeypatch.setitem(registry.BENCHMARKS, "capitals", "capitals_example:Capitals")
    monkeypatch.setitem(
        registry.SCORERS, "capitals", "kdharness.judges.scoring.scorers:score_exact"
    )
    config = EvalConfig(checkpoints=[str(tiny_teacher)], benches=["capitals"])
    with Store(paths.store) as store:
        pipeline.run(config, paths, store, NullReporter())
        (score,) = [s for s in leaderboard(store, paths) if s.metric == "score"]
    assert (score.bench, score.n) == ("capitals", 1)


def test_documented_custom_rows_are_accepted(tmp_path: Path) -> None:
    path = tmp_path / "mine.jsonl"
    path.write_text(code_block("json"))
    rows = read_rows(path, EvalConfig())
    assert [row.metrics for row in rows] == [("accuracy",), ("json_f1",), ("rating",)]
    assert json.loads(rows[1].item.references[0])["colour"] == "red"


def test_every_benchmark_and_label_is_documented() -> None:
    for name in registry.BENCHMARKS:
        assert name == "file" or name in GUIDE
    for label in LABELS:
        assert f"judge:{label}" in GUIDE
