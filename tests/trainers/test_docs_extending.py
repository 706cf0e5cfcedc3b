"""Run the documentation's example method unchanged."""

from __future__ import annotations

import re
import sys
import types
from pathlib import Path
from typing import Any

import pytest

from kdharness.harness.config import training as configs
from kdharness.harness.config.files import parse_config
from kdharness.harness.paths import Paths
from kdharness.harness.protocols import Job
from kdharness.harness.registry import TRAINERS, resolve

pytestmark = pytest.mark.slow

DOC = Path(__file__).parent.parent.parent / "docs" / "extending.md"


class LossRecorder:
    """Reporter that records losses."""

    def __init__(self) -> None:
        self.losses: list[float] = []

    def stage(self, name: str, total: int) -> None: ...

    def advance(self, done: int, **values: float) -> None:
        if "loss" in values:
            self.losses.append(values["loss"])

    def say(self, message: str, *, kind: str = "note", **info: Any) -> None: ...

    def check(self) -> None: ...


def test_documented_example_method_trains(
    tiny_teacher: Path, paths: Paths, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    blocks = re.findall(r"```python\n(.*?)```", DOC.read_text("utf-8"), re.S)
    code = next(block for block in blocks if "softened self" in block)
    fields = next(block for block in blocks if "class SoftenConfig" in block)
    monkeypatch.setattr(configs, "CONFIGS", dict(configs.CONFIGS))
    monkeypatch.setattr(configs, "SoftenConfig", None, raising=False)
    monkeypatch.setattr("kdharness.harness.config.files.CONFIGS", configs.CONFIGS)
    exec(compile(fields, "config.py", "exec"), configs.__dict__)
    module = types.ModuleType("kdharness.trainers.methods.soften")
    exec(compile(code, "soften.py", "exec"), module.__dict__)
    monkeypatch.setitem(sys.modules, "kdharness.trainers.methods.soften", module)
    line = next(block for block in blocks if 'TRAINERS["soften"]' in block)
    monkeypatch.setitem(TRAINERS, "soften", "")
    exec(line, {"TRAINERS": TRAINERS})
    config = parse_config(
        {
            "method": "soften",
            "student": {"from": str(tiny_teacher), "keep_layers": 2},
            "data": {"train": {"path": "general:train", "limit": 12}, "max_length": 64},
            "trainer": {"learning_rate": 0.01, "max_steps": 6, "batch_size": 4, "device": "cpu"},
        }
    )
    assert config.method == "soften"
    reporter = LossRecorder()
    job = Job(paths, "r", tmp_path / "run", reporter)
    outcome = resolve(TRAINERS, "soften", "method")(config, job)
    assert (outcome.folder / "model.safetensors").exists()
    assert set(outcome.parents) == {"student", "teacher"}
    assert reporter.losses[-1] < reporter.losses[0]
