"""Pages that are made from the program are what it would make now; links lead somewhere."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]


def test_the_reference_of_commands_is_current() -> None:
    script = ROOT / "docs" / "make_commands.py"
    command = [sys.executable, str(script), "--check"]
    done = subprocess.run(command, env={"HOME": "/nowhere", "COLUMNS": "40"})
    assert done.returncode == 0, "run: make docs"


def test_the_reference_has_every_command() -> None:
    from kdharness.harness.cli.main import COMMANDS

    text = (ROOT / "docs" / "commands.md").read_text("utf-8")
    assert [name for name in COMMANDS if f"\n### kdharness {name}\n" not in text] == []


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_links_lead_somewhere(page: Path) -> None:
    links = re.findall(r"\]\((?!https?:|#)([^)#\s]+)", page.read_text("utf-8"))
    assert [link for link in links if not (page.parent / link).exists()] == []
