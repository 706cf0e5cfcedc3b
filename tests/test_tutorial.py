"""The tutorial's commands run as written and print what the page shows."""

from __future__ import annotations

import importlib.util
import sys
from pathlib import Path
from typing import Any

import pytest

SCRIPT = Path(__file__).parent.parent / "docs" / "make_tutorial.py"


def _load_make_tutorial() -> Any:
    spec = importlib.util.spec_from_file_location("make_tutorial", SCRIPT)
    assert spec and spec.loader
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    spec.loader.exec_module(module)
    return module


TUTORIAL = _load_make_tutorial()
PAGE = TUTORIAL.PAGE.read_text("utf-8")


@pytest.mark.slow
def test_tutorial_output_matches_the_page(tmp_path: Path) -> None:
    printed = TUTORIAL.run_page(PAGE, tmp_path)
    differences = TUTORIAL.differences(PAGE, printed)
    assert not differences, "run: python docs/make_tutorial.py\n" + "\n".join(differences)
    assert "pick shop-dae:" in printed
    home = tmp_path / "home"
    assert (home / "kdharness.db").exists()
    assert (home / "runs" / "shop-dae" / "final" / "model.safetensors").exists()
    assert "<html" in (tmp_path / "shop.html").read_text("utf-8")


def test_tutorial_covers_the_workflow_from_plan_to_report() -> None:
    lines = [line for line, _ in TUTORIAL.shapes(PAGE)]
    words = [line.split()[1] for line in lines if line.startswith("kdharness ")]
    assert words[0] == "plan" and words[-1] == "report"
    assert {"train", "sweep", "leaderboard", "compare", "tradeoff"} <= set(words)


def test_shape_keeps_names_and_drops_numbers() -> None:
    table = "run  loss  started\nb    0.25  2026-11-26T01:12:19\na    –     1:05\n│ #1\n"
    assert TUTORIAL.shape(table) == [("a",), ("b",), ("run", "loss", "started")]
    assert TUTORIAL.shape("a  1.5 [1, 2]\n") == TUTORIAL.shape("a  7 [6.9, 8e-3]\n")
    assert TUTORIAL.shape("b 1\na 2\n") == TUTORIAL.shape("a 1\nb 2\n")
    assert TUTORIAL.shape("ok: kd 083b6675a1f8fadcbd0e\n") == [("ok:", "kd")]
    assert TUTORIAL.shape("gain 0.5") != TUTORIAL.shape("retention 0.5")


def test_output_that_differs_from_the_page_is_detected(tmp_path: Path) -> None:
    page = """Write it and read it.

```python title="say.py"
print("column", 1)
```

```console
$ export WORD=one
$ python say.py
column 2
```
"""
    printed = TUTORIAL.run_page(page, tmp_path)
    assert printed == page.replace("column 2", "column 1")
    assert TUTORIAL.differences(page, printed) == []
    wrong = page.replace("column 2", "row 2")
    assert "-row" in TUTORIAL.differences(wrong, TUTORIAL.run_page(wrong, tmp_path))


@pytest.mark.slow
def test_failing_command_aborts_the_page(tmp_path: Path) -> None:
    page = "```console\n$ kdharness config check missing.yaml\n```\n"
    with pytest.raises(RuntimeError, match=r"missing\.yaml"):
        TUTORIAL.run_page(page, tmp_path)
