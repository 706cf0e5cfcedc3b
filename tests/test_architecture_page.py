"""docs/architecture.md shows the folders that exist and the import contracts that are enforced."""

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
    """The text below a second-level heading."""
    return page.split(f"\n## {heading}\n", 1)[1].split("\n## ", 1)[0]


def tree(text: str) -> dict[str, str]:
    """Folder -> its line, from the first code block whose lines are indented folder names."""
    (block,) = re.findall(r"```\n(\w+/ .*?)```", text, re.DOTALL)
    folders, above = {}, ""
    for line in block.splitlines():
        indent, name, words = re.fullmatch(r"( *)(\w+)/ +(\S.*)", line).groups()  # type: ignore[union-attr]
        above = above if indent else name
        folders[f"{above}/{name}" if indent else name] = words
    return folders


def folders_that_exist() -> set[str]:
    """Every tracked folder of the packages, and the other folders at the top; no dot folders."""
    done = subprocess.run(["git", "ls-files"], cwd=ROOT, capture_output=True, text=True, check=True)
    files = [Path(name) for name in done.stdout.splitlines()]
    above = {parent for file in files for parent in file.parents if parent != Path(".")}
    return {
        path.as_posix()
        for path in above
        if not path.parts[0].startswith(".") and (len(path.parts) == 1 or path.parts[0] in PACKAGES)
    }


@pytest.mark.parametrize("page", ["README.md", "docs/architecture.md"])
def test_the_tree_has_a_line_for_every_folder(page: str) -> None:
    assert set(tree((ROOT / page).read_text("utf-8"))) == folders_that_exist()


def test_both_trees_say_the_same() -> None:
    assert tree((ROOT / "README.md").read_text("utf-8")) == tree(ARCHITECTURE)


def test_the_staircase_is_the_contract() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))
    contracts = project["tool"]["importlinter"]["contracts"]
    (layers,) = [c["layers"] for c in contracts if c.get("containers") == ["kdharness.harness"]]
    wanted = [[name.strip() for name in layer.split("|")] for layer in layers]
    rows = re.findall(
        r"^\| (`[^|]+) \| \S.{20,}\|$", section(ARCHITECTURE, "The staircase"), re.MULTILINE
    )
    assert [re.findall(r"`(\w+)`", row) for row in rows] == wanted


def test_a_dozen_lines_have_their_place() -> None:
    text = section(ARCHITECTURE, "Where does a line like this belong?")
    rows = re.findall(r"^\| (?!a line|-)(.+?) \| (.+) \|$", text, re.MULTILINE)
    assert len(rows) >= 12
    for what, where in rows:
        paths = [name for name in re.findall(r"`([\w/.]+)`", where) if "/" in name]
        assert paths, what
        assert [name for name in paths if not (ROOT / name).exists()] == [], what
