"""docs/architecture.md matches the existing folders and the enforced import contracts."""

from __future__ import annotations

import re
import subprocess
import tomllib
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
PACKAGES = ("harness", "trainers", "judges", "tui", "data")
ARCHITECTURE = (ROOT / "docs" / "architecture.md").read_text("utf-8")


def section(page: str, heading: str) -> str:
    """Return the text below a second-level heading."""
    return page.split(f"\n## {heading}\n", 1)[1].split("\n## ", 1)[0]


def tree(text: str) -> dict[str, str]:
    """Map folders to descriptions, from the first code block of indented folder names."""
    (block,) = re.findall(r"```\n(\w+/ .*?)```", text, re.DOTALL)
    folders, above = {}, ""
    for line in block.splitlines():
        indent, name, description = re.fullmatch(r"( *)(\w+)/ +(\S.*)", line).groups()  # type: ignore[union-attr]
        above = above if indent else name
        folders[f"{above}/{name}" if indent else name] = description
    return folders


def tracked_folders() -> set[str]:
    """Return all tracked folders of the packages and other top-level ones, except dot folders."""
    done = subprocess.run(["git", "ls-files"], cwd=ROOT, capture_output=True, text=True, check=True)
    files = [Path(name) for name in done.stdout.splitlines()]
    above = {parent for file in files for parent in file.parents if parent != Path(".")}
    return {
        path.as_posix()
        for path in above
        if not path.parts[0].startswith(".") and (len(path.parts) == 1 or path.parts[0] in PACKAGES)
    }


@pytest.mark.parametrize("page", ["README.md", "docs/architecture.md"])
def test_tree_lists_every_folder(page: str) -> None:
    assert set(tree((ROOT / page).read_text("utf-8"))) == tracked_folders()


def test_both_trees_are_identical() -> None:
    assert tree((ROOT / "README.md").read_text("utf-8")) == tree(ARCHITECTURE)


def test_documented_layers_match_the_import_contract() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))
    contracts = project["tool"]["importlinter"]["contracts"]
    (layers,) = [c["layers"] for c in contracts if c.get("containers") == ["kdharness.harness"]]
    expected = [[name.strip() for name in layer.split("|")] for layer in layers]
    rows = re.findall(
        r"^\| (`[^|]+) \| \S.{20,}\|$", section(ARCHITECTURE, "The staircase"), re.MULTILINE
    )
    assert [re.findall(r"`(\w+)`", row) for row in rows] == expected


def test_at_least_twelve_kinds_of_code_have_an_existing_location() -> None:
    text = section(ARCHITECTURE, "Where does a line like this belong?")
    rows = re.findall(r"^\| (?!a line|-)(.+?) \| (.+) \|$", text, re.MULTILINE)
    assert len(rows) >= 12
    for kind, location in rows:
        paths = [name for name in re.findall(r"`([\w/.]+)`", location) if "/" in name]
        assert paths, kind
        assert [name for name in paths if not (ROOT / name).exists()] == [], kind
