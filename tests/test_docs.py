"""Pages that are made from the program are what it would make now; links lead somewhere."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]


@pytest.mark.parametrize("script", ["make_commands.py", "make_config_reference.py"])
def test_generated_pages_are_current(script: str) -> None:
    command = [sys.executable, str(ROOT / "docs" / script), "--check"]
    done = subprocess.run(command, env={"HOME": "/nowhere", "COLUMNS": "40"})
    assert done.returncode == 0, "run: make docs"


def test_the_reference_has_every_command() -> None:
    from kdharness.harness.cli.main import COMMANDS

    text = (ROOT / "docs" / "commands.md").read_text("utf-8")
    assert [name for name in COMMANDS if f"\n### kdharness {name}\n" not in text] == []


def test_the_config_reference_has_every_field() -> None:
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


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_links_lead_somewhere(page: Path) -> None:
    links = re.findall(r"\]\((?!https?:|#)([^)#\s]+)", page.read_text("utf-8"))
    assert [link for link in links if not (page.parent / link).exists()] == []
