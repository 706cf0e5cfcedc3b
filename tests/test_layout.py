"""Repository layout: packages, imports, and files that must not be committed."""

from __future__ import annotations

import subprocess
import tomllib
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
PACKAGES = ("harness", "trainers", "judges", "tui", "data")


def project() -> dict[str, object]:
    return tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))


def test_package_list_matches_the_folders() -> None:
    settings = project()["tool"]["setuptools"]  # type: ignore[index]
    folders = {
        str(path.parent.relative_to(ROOT))
        for package in PACKAGES
        for path in (ROOT / package).rglob("__init__.py")
    }
    assert {value: key for key, value in settings["package-dir"].items()} == {
        folder: "kdharness." + folder.replace("/", ".") for folder in folders
    }
    assert set(settings["packages"]) == set(settings["package-dir"])
    for package in PACKAGES:
        assert (ROOT / package / "py.typed").exists()


def test_no_module_imports_a_package_by_its_bare_name() -> None:
    for path in ROOT.rglob("*.py"):
        if any(part.startswith(".") for part in path.relative_to(ROOT).parts):
            continue
        for line in path.read_text("utf-8").splitlines():
            words = line.split()
            if len(words) >= 2 and words[0] in ("from", "import"):
                assert words[1].split(".")[0] not in PACKAGES, f"{path}: {line}"


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
