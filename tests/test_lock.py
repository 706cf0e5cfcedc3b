"""What is installed is what was tried: the lock, the constraints and pyproject.toml agree."""

from __future__ import annotations

import importlib.util
import re
import tomllib
from pathlib import Path
from typing import Any

import pytest
from packaging.requirements import Requirement

ROOT = Path(__file__).parent.parent


def maker() -> Any:
    script = ROOT / "tests" / "tools" / "make_lock.py"
    spec = importlib.util.spec_from_file_location("maker", script)
    assert spec and spec.loader
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


LOCK = (ROOT / "requirements.lock").read_text("utf-8")
MAKER = maker()
LOCKED = MAKER.pins(LOCK)
CONSTRAINED = MAKER.pins((ROOT / "constraints.txt").read_text("utf-8"))


def test_the_lock_names_the_versions_of_the_constraints() -> None:
    assert {**LOCKED, "torch": CONSTRAINED["torch"]} == CONSTRAINED, "run: make lock"


def test_every_entry_has_hashes() -> None:
    entries = re.split(r"\n(?=[^\s#])", LOCK)[1:]
    assert len(entries) == len(LOCKED)
    for entry in entries:
        assert re.search(r"--hash=sha256:[0-9a-f]{64}\b", entry), entry


def test_everything_that_is_asked_for_is_locked_in_range() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))
    extras = project["project"]["optional-dependencies"]
    asked = [
        *project["project"]["dependencies"],
        *extras["dev"],
        *extras["hub"],
        *project["build-system"]["requires"],
    ]
    for requirement in map(Requirement, asked):
        version = CONSTRAINED[requirement.name.lower()]
        assert requirement.specifier.contains(version), requirement


def test_installing_refuses_other_files() -> None:
    recipe = (ROOT / "Makefile").read_text("utf-8").replace("\\\n\t\t", "")
    first, second = (line for line in recipe.splitlines() if "pip install $(QUIET)" in line)
    assert "--require-hashes -r requirements.lock" in first
    assert "--only-binary :all:" in first, "pip would build from source where a wheel is not ours"
    assert "--no-build-isolation" in second, "a build environment of its own would not be checked"


def test_what_is_not_in_the_constraints_is_noticed() -> None:
    mine = "Rich_x==15 \\\n    --hash=sha256:c\n"
    others = "torch==2.13.0 \\\n    --hash=sha256:a\nnvidia-x==1 ; python_version > '3' \\\n    b\n"
    assert MAKER.kept(others + mine, {"rich-x": "15"}) == MAKER.HEAD + mine
    with pytest.raises(SystemExit, match=r"newcomer==1 is not in constraints\.txt"):
        MAKER.kept("newcomer==1 \\\n    --hash=sha256:a", {})
