"""The house itself: packages, contracts, sizes, and what may not be in the repository."""

from __future__ import annotations

import subprocess
import tomllib
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
ROOMS = ("harness", "trainers", "judges", "tui", "data")


def project() -> dict[str, object]:
    return tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))


def test_the_package_list_is_the_folders() -> None:
    settings = project()["tool"]["setuptools"]  # type: ignore[index]
    found = {
        str(path.parent.relative_to(ROOT))
        for room in ROOMS
        for path in (ROOT / room).rglob("__init__.py")
    }
    assert {value: key for key, value in settings["package-dir"].items()} == {
        folder: "kdharness." + folder.replace("/", ".") for folder in found
    }
    assert set(settings["packages"]) == set(settings["package-dir"])
    for room in ROOMS:
        assert (ROOT / room / "py.typed").exists()


def test_nothing_imports_a_room_by_its_bare_name() -> None:
    for path in ROOT.rglob("*.py"):
        if any(part.startswith(".") for part in path.relative_to(ROOT).parts):
            continue
        for line in path.read_text("utf-8").splitlines():
            words = line.split()
            if len(words) >= 2 and words[0] in ("from", "import"):
                assert words[1].split(".")[0] not in ROOMS, f"{path}: {line}"


def test_no_benchmark_text_is_committed() -> None:
    """MT-Bench and AlpacaEval texts are fetched, never shipped."""
    done = subprocess.run(["git", "ls-files"], cwd=ROOT, capture_output=True, text=True)
    if done.returncode:
        pytest.fail("this test runs in a git checkout")
    names = done.stdout.splitlines()
    assert not [n for n in names if "judge_prompts" in n or "alpaca_eval_gpt4" in n]
    assert not [n for n in names if n.endswith((".gguf", ".safetensors", ".pkl", ".pt"))]


def test_every_registry_name_resolves() -> None:
    from kdharness.harness import registry

    for table in (
        registry.TRAINERS,
        registry.BENCHMARKS,
        registry.SCORERS,
        registry.ENGINES,
        registry.TOOLS,
    ):
        for name in table:
            assert callable(registry.resolve(table, name, "name")), name
