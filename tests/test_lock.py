"""The lock, the constraints and pyproject.toml agree."""

from __future__ import annotations

import importlib.util
import re
import tomllib
from pathlib import Path
from typing import Any

import pytest
from packaging.requirements import Requirement

ROOT = Path(__file__).parent.parent


def load_make_lock() -> Any:
    script = ROOT / "tests" / "tools" / "make_lock.py"
    spec = importlib.util.spec_from_file_location("maker", script)
    assert spec and spec.loader
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


LOCK = (ROOT / "requirements.lock").read_text("utf-8")
MAKE_LOCK = load_make_lock()
LOCKED = MAKE_LOCK.pins(LOCK)
CONSTRAINED = MAKE_LOCK.pins((ROOT / "constraints.txt").read_text("utf-8"))


def test_lock_has_the_versions_of_the_constraints() -> None:
    left_out = {name for name in CONSTRAINED if MAKE_LOCK.LEFT_OUT.fullmatch(name)}
    assert left_out == {"torch", "triton"}
    assert {**LOCKED, **{name: CONSTRAINED[name] for name in left_out}} == CONSTRAINED, (
        "run: make lock"
    )


def test_every_lock_entry_has_hashes() -> None:
    entries = re.split(r"\n(?=[^\s#])", LOCK)[1:]
    assert len(entries) == len(LOCKED)
    for entry in entries:
        assert re.search(r"--hash=sha256:[0-9a-f]{64}\b", entry), entry


def test_all_requirements_are_locked_within_range() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))
    extras = project["project"]["optional-dependencies"]
    requirements = [
        *project["project"]["dependencies"],
        *extras["dev"],
        *extras["hub"],
        *project["build-system"]["requires"],
    ]
    for requirement in map(Requirement, requirements):
        version = CONSTRAINED[requirement.name.lower()]
        assert requirement.specifier.contains(version), requirement


def test_install_recipe_requires_hashes_and_wheels() -> None:
    recipe = (ROOT / "Makefile").read_text("utf-8").replace("\\\n\t\t", "")
    first, second = (line for line in recipe.splitlines() if "pip install $(QUIET)" in line)
    assert "--require-hashes -r requirements.lock" in first
    assert "--only-binary :all:" in first, "pip would build from source where a wheel is not ours"
    assert "--no-build-isolation" in second, "a build environment of its own would not be checked"


def test_package_outside_the_constraints_is_rejected() -> None:
    constrained = "Rich_x==15 \\\n    --hash=sha256:c\n"
    others = "torch==2.13.0 \\\n    --hash=sha256:a\nnvidia-x==1 ; python_version > '3' \\\n    b\n"
    assert MAKE_LOCK.kept(others + constrained, {"rich-x": "15"}) == MAKE_LOCK.HEAD + constrained
    with pytest.raises(SystemExit, match=r"newcomer==1 is not in constraints\.txt"):
        MAKE_LOCK.kept("newcomer==1 \\\n    --hash=sha256:a", {})
