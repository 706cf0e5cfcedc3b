"""Run the tutorial's commands and write what they print into it: `python docs/make_tutorial.py`.

A block that names a file (```` ```yaml title="kd.yaml" ````) is written to that file; a line of a
```` ```console ```` block that begins with `$` is run, and the lines below it are what it printed.
Everything happens in a temporary folder with a home of its own. Numbers differ between machines:
the test compares names and shapes (`shape`), and `--check` prints where they differ.
"""

from __future__ import annotations

import argparse
import difflib
import os
import re
import shlex
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

PAGE = Path(__file__).parent / "tutorial.md"
_BLOCK = re.compile(r'^```(\w+)(?: title="([\w.]+)")?\n(.*?)^```$', re.DOTALL | re.MULTILINE)
_NUMBER = re.compile(r"[-+−]?\d[\d.,:eT+-]*%?|[0-9a-f]{16,}")
"""Figures, times, and hashes."""
_DRAWN = ("│", "└")


@dataclass(frozen=True)
class Command:
    """One command of a console block, with what it printed."""

    line: str
    output: str


def commands(block: str) -> list[Command]:
    """Return the commands of a console block."""
    parts = re.split(r"^\$ ", block, flags=re.MULTILINE)
    pairs = (part.partition("\n") for part in parts if part.strip())
    return [Command(line, output) for line, _, output in pairs]


def run_page(text: str, folder: Path) -> str:
    """Carry out a page's blocks in order, in `folder`; return the page with new output.

    Raises:
        RuntimeError: a command that failed, with what it printed.
    """
    environment = {
        **os.environ,
        "COLUMNS": "100",
        "CUDA_VISIBLE_DEVICES": "",
        "OMP_NUM_THREADS": "1",
        "TOKENIZERS_PARALLELISM": "false",
    }

    def run_block(match: re.Match[str]) -> str:
        language, title, body = match.groups()
        if title:
            (folder / title).write_text(body, "utf-8")
        if language != "console":
            return match.group(0)
        shown = []
        for command in commands(body):
            shown.append(f"$ {command.line}\n{_run(command.line, folder, environment)}")
        return f"```console\n{''.join(shown)}```"

    return _BLOCK.sub(run_block, text)


def _run(line: str, folder: Path, environment: dict[str, str]) -> str:
    """Run one line as a shell would run it; return what it printed to standard output."""
    program, *arguments = shlex.split(line)
    if program == "export":
        name, _, value = arguments[0].partition("=")
        environment[name] = value.replace("$PWD", str(folder))
        return ""
    start = {"kdharness": ["-m", "kdharness.harness.cli"], "python": []}[program]
    done = subprocess.run(
        [sys.executable, *start, *arguments],
        cwd=folder,
        env=environment,
        capture_output=True,
        text=True,
    )
    if done.returncode:
        raise RuntimeError(f"$ {line}\n{done.stdout}{done.stderr}")
    output = "\n".join(part.rstrip() for part in done.stdout.strip("\n").split("\n"))
    return f"{output}\n" if output else ""


def shape(output: str) -> list[tuple[str, ...]]:
    """Return the words of each line without numbers and drawings, in an order of their own.

    Rows of a table are ordered by their figures, which are not the same everywhere.
    """
    lines = []
    for line in output.splitlines():
        if line.startswith(_DRAWN):
            continue
        words = [word for word in line.split() if not _is_number(word)]
        if words:
            lines.append(tuple(words))
    return sorted(lines)


def _is_number(word: str) -> bool:
    bare = word.strip("[](),;–-")
    return not bare or _NUMBER.fullmatch(bare) is not None


def shapes(text: str) -> list[tuple[str, list[tuple[str, ...]]]]:
    """Return every command of a page with the shape of its output."""
    blocks = (match.group(3) for match in _BLOCK.finditer(text) if match.group(1) == "console")
    return [(c.line, shape(c.output)) for block in blocks for c in commands(block)]


def differences(old: str, new: str) -> Sequence[str]:
    """Return where two pages differ in shape, as lines of a diff."""

    def listed(text: str) -> list[str]:
        return [" ".join(words) for line, rows in shapes(text) for words in [(f"$ {line}",), *rows]]

    return list(difflib.unified_diff(listed(old), listed(new), "written", "printed", lineterm=""))


def main() -> int:
    """Write the page, or compare it."""
    parser = argparse.ArgumentParser(description="docs/tutorial.md with what its commands print.")
    parser.add_argument("--check", action="store_true", help="Compare shapes, write nothing.")
    check = parser.parse_args().check
    text = PAGE.read_text("utf-8")
    with tempfile.TemporaryDirectory() as folder:
        new = run_page(text, Path(folder).resolve())
    if check:
        found = differences(text, new)
        print("\n".join(found), file=sys.stderr)
        return int(bool(found))
    PAGE.write_text(new, "utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main())
