"""Generated pages are current; links, files, modules and commands on pages exist."""

from __future__ import annotations

import importlib
import json
import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
PACKAGES = ("harness", "trainers", "judges", "tui", "data")
PAGES = [
    *(page for page in sorted(ROOT.glob("*.md")) if page.name != "CHANGELOG.md"),
    *sorted((ROOT / "docs").glob("*.md")),
    *(page for package in PACKAGES for page in sorted((ROOT / package).rglob("*.md"))),
]
EXAMPLES = {"soften", "capitals", "constant", "make_model", "NAME"}
"""Names of examples that the reader creates."""


def page_id(page: Path) -> str:
    return page.relative_to(ROOT).as_posix()


@pytest.mark.slow
@pytest.mark.parametrize("script", ["make_commands.py", "make_config_reference.py"])
def test_generated_pages_are_current(script: str) -> None:
    command = [sys.executable, str(ROOT / "docs" / script), "--check"]
    done = subprocess.run(command, env={"HOME": "/nowhere", "COLUMNS": "40"})
    assert done.returncode == 0, "run: make docs"


def test_command_reference_has_every_command() -> None:
    from kdharness.harness.cli.main import COMMANDS

    text = (ROOT / "docs" / "commands.md").read_text("utf-8")
    assert [name for name in COMMANDS if f"\n### kdharness {name}\n" not in text] == []


def test_config_reference_has_every_field() -> None:
    from kdharness.harness.config.files import preset_names, preset_text
    from kdharness.harness.util.untrusted import parse_yaml

    text = (ROOT / "docs" / "config.md").read_text("utf-8")
    documented = set(re.findall(r"^\| `(\w+)` \|", text, re.MULTILINE))

    def fields(values: object) -> set[str]:
        if isinstance(values, list):
            return {name for value in values for name in fields(value)}
        if not isinstance(values, dict):
            return set()
        return set(values) | {name for value in values.values() for name in fields(value)}

    used = {
        name
        for preset in preset_names()
        for name in fields(parse_yaml(preset_text(preset), preset))
    }
    assert used and used <= documented


@pytest.mark.parametrize("page", PAGES, ids=page_id)
def test_relative_links_exist(page: Path) -> None:
    links = re.findall(r"\]\((?!https?:|#)([^)#\s]+)", page.read_text("utf-8"))
    assert [link for link in links if not (page.parent / link).exists()] == []


@pytest.mark.parametrize("page", PAGES, ids=page_id)
def test_mentioned_files_exist(page: Path) -> None:
    text = page.read_text("utf-8")
    tops = "|".join((*PACKAGES, "docs", "tests", r"\.github"))
    paths = set(re.findall(rf"(?<![\w/.-])(?:{tops})/[\w./*-]*\w/?", text))
    # A word in capitals is a placeholder.
    real = {path for path in paths if not any(part.isupper() for part in Path(path).parts)}
    code = {path for top in (*PACKAGES, "tests", "docs") for path in (ROOT / top).rglob("*.py")}
    scripts = set(re.findall(r"(?<![\w/])\w+\.py\b", text)) - {path.name for path in code}
    missing = {path for path in real if not list(ROOT.glob(path))} | scripts
    assert {path for path in missing if Path(path).stem not in EXAMPLES} == set()


@pytest.mark.parametrize("page", PAGES, ids=page_id)
def test_mentioned_modules_exist(page: Path) -> None:
    named = rf"\bkdharness\.(?:{'|'.join(PACKAGES)})(?:\.[A-Za-z_]\w*)*"
    names = set(re.findall(named, page.read_text("utf-8")))
    missing = [n for n in names if not EXAMPLES & set(n.split(".")) and not _exists(n)]
    assert missing == []


def _exists(name: str) -> bool:
    """Return whether a dotted name is a module or an attribute of a module."""
    parts = name.split(".")
    for end in range(len(parts), 1, -1):
        try:
            value: object = importlib.import_module(".".join(parts[:end]))
        except ModuleNotFoundError:
            continue
        return all((value := getattr(value, part, None)) is not None for part in parts[end:])
    return False


@pytest.mark.parametrize("page", PAGES, ids=page_id)
def test_mentioned_commands_exist(page: Path) -> None:
    from kdharness.harness.cli.main import COMMANDS

    text = page.read_text("utf-8")
    blocks = "\n".join(re.findall(r"^```(?:console)?\n(.*?)^```", text, re.DOTALL | re.MULTILINE))
    used = set(re.findall(r"^(?:\$ )?kdharness ([a-z][\w-]*)", blocks, re.MULTILINE))
    used |= set(re.findall(r"`kdharness ([a-z][\w-]*)", text))
    assert used - set(COMMANDS) == set()


def test_json_keys_of_every_listing_are_documented() -> None:
    """docs/outputs.md documents every key of the golden listings, which programs rely on."""
    golden = json.loads((ROOT / "tests/fixtures/frozen/listings.json").read_text("utf-8"))
    text = (ROOT / "docs" / "outputs.md").read_text("utf-8")
    documented = set(
        re.findall(r"\w+", " ".join(re.findall(r"`[^`]+`|```.*?```", text, re.DOTALL)))
    )
    rows = {
        name: listing[0] if isinstance(listing, list) else listing
        for name, listing in golden.items()
        if listing
    }
    rows["statistics"] = golden["tradeoff"]["statistics"]
    rows["axes"], (rows["point"], *_) = golden["tradeoff"]["axes"], golden["tradeoff"]["points"]
    rows["flipped"] = next(row["items"][0] for row in golden["compare flips"] if row["items"])
    assert len(rows) > 10
    for name, row in rows.items():
        assert set(row) - documented == set(), name
