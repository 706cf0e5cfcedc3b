"""Run the code blocks of docs/python-api.md on tiny models."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest

from kdharness.harness import Home

PAGE = Path(__file__).parent.parent / "docs" / "python-api.md"


@pytest.mark.slow
def test_every_code_block_runs(
    tmp_path: Path,
    tiny_teacher: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(tmp_path)
    rows = [{"path": "general:train", "limit": 4}]
    rows += [{"path": "shop:train", "kind": "domain", "limit": 4}]
    shared = {
        "data": {"train": rows, "max_length": 96},
        "trainer": {"max_steps": 2, "batch_size": 2, "device": "cpu"},
    }
    student = {"from": "teacher", "keep_layers": 2}
    configs: dict[str, dict[str, Any]] = {
        "kd": {"method": "kd", "teacher": str(tiny_teacher), "student": student},
        "expert": {"method": "sft", "name": "expert", "student": "set on the command line"},
        "dae": {"method": "dae", "student": "set there", "expert": "set there"},
    }
    for name, values in configs.items():
        (tmp_path / f"{name}.yaml").write_text(json.dumps({**shared, **values}))
    blocks = re.findall(r"```python\n(.*?)```", PAGE.read_text("utf-8"), flags=re.S)
    assert len(blocks) == 4
    names: dict[str, Any] = {}
    for block in blocks[:3]:
        exec(compile(block, str(PAGE), "exec"), names)
    assert isinstance(names["home"], Home) and (tmp_path / "HOME" / "kdharness.db").exists()
    printed = capsys.readouterr().out.split()
    assert printed[0] in names["names"]
    assert names["found"].pick in names["names"]
