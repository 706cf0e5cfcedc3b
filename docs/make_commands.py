"""`docs/commands.md` from the commands' own help: `python docs/make_commands.py` (`make docs`).

The width is fixed and the environment is left out, so that the page is the same wherever it is
made; a test compares it. `--check` writes nothing and fails when the page is old.
"""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Iterator
from pathlib import Path

import click

from kdharness.harness.cli.main import cli

PAGE = Path(__file__).parent / "commands.md"
WIDTH = 96
HEAD = """# Commands

Made from `kdharness COMMAND --help` by `make docs`; a test holds it against the commands. \
Listings and exit codes are in [outputs.md](outputs.md).
"""


def commands(
    command: click.Command, parent: click.Context | None, name: str
) -> Iterator[tuple[str, str]]:
    """(full name, help) of a command and of all below it, in the order of `--help`."""
    context = click.Context(
        command, parent=parent, info_name=name, terminal_width=WIDTH, max_content_width=WIDTH
    )
    yield context.command_path, command.get_help(context).replace(str(Path.home()), "~")
    if isinstance(command, click.Group):
        for word in command.list_commands(context):
            found = command.get_command(context, word)
            if found is not None and not found.hidden:
                yield from commands(found, context, word)


def page() -> str:
    """The whole page."""
    parts = [HEAD]
    for name, text in commands(cli, None, "kdharness"):
        depth = min(name.count(" ") + 2, 4)
        parts.append(f"{'#' * depth} {name}\n\n```\n{text.rstrip()}\n```\n")
    return "\n".join(parts)


def main() -> int:
    """Write the page, or compare it."""
    parser = argparse.ArgumentParser(description="docs/commands.md from the commands' own help.")
    parser.add_argument("--check", action="store_true", help="Compare, write nothing.")
    text = page()
    if parser.parse_args().check:
        return int(not PAGE.exists() or PAGE.read_text("utf-8") != text)
    PAGE.write_text(text, "utf-8")
    return 0


if __name__ == "__main__":
    os.environ.pop("KDHARNESS_HOME", None)
    sys.exit(main())
