"""The docs command: the documentation pages, from the installed package."""

from __future__ import annotations

import json
import re
import sys
from collections.abc import Iterator
from importlib.metadata import PackageNotFoundError, distribution
from pathlib import Path

import click
from rich.console import Console
from rich.markdown import Markdown

from kdharness.harness.cli.listing_schemas import all_schemas, listing_schema
from kdharness.harness.errors import ConfigError, did_you_mean
from kdharness.harness.util.tables import print_table

SOURCE = Path(__file__).parents[2] / "docs"
"""The pages of a source tree."""
INSTALLED = re.compile(r"(^|/)share/kdharness/docs/[\w-]+\.md$")
SYNONYMS = {
    "start": ["tutorial", "index"],
    "eval": ["judges"],
    "benchmarks": ["judges"],
    "gguf": ["exporting"],
    "ollama": ["exporting"],
    "json": ["outputs"],
    "schema": ["outputs"],
    "yaml": ["config"],
    "distillation": ["method", "training"],
    "sweep": ["experiments"],
    "python": ["python-api"],
    "hub": ["publishing"],
}
EVERY = "every listing"
Section = tuple[int, str, int, int]
"""Level, title, first line, line after the last one."""


def pages() -> dict[str, Path]:
    """Return topic -> page.

    Raises:
        ConfigError: the pages are not installed.
    """
    found = sorted(SOURCE.glob("*.md")) if (SOURCE.parent / "pyproject.toml").is_file() else []
    if not found:
        try:
            files = distribution("kdharness").files or []
        except PackageNotFoundError:
            files = []
        named = [file for file in files if INSTALLED.search(file.as_posix())]
        found = sorted(Path(str(file.locate())).resolve() for file in named)
    if not found:
        raise ConfigError(
            "the documentation is not installed",
            hint="install kdharness from its wheel: pip install --force-reinstall kdharness",
        )
    return {path.stem: path for path in found}


@click.command("docs")
@click.argument("topic", required=False)
@click.option(
    "--schema",
    is_flag=False,
    flag_value=EVERY,
    metavar="[LISTING]",
    help="Print the JSON Schema of a listing, such as `runs` or `compare cost`, or of all.",
)
def docs_command(topic: str | None, schema: str | None) -> None:
    """Show a page of the documentation, or list the pages.

    TOPIC is a page, or a section of one: `kdharness docs training#kernels`. On a terminal it is
    laid out; elsewhere it is Markdown.
    """
    if schema is not None:
        found = all_schemas() if schema == EVERY else listing_schema(schema)
        click.echo(json.dumps(found, indent=2, ensure_ascii=False))
        return
    known = pages()
    if topic is None:
        rows = [{"topic": name, "about": _title(path)} for name, path in known.items()]
        print_table(rows, ["topic", "about"], "table")
        click.echo("show one: kdharness docs TOPIC, or a section: TOPIC#SECTION", err=True)
        return
    name, _, part = topic.partition("#")
    if name not in known:
        raise ConfigError(
            f"no page {name[:60]!r}{did_you_mean(name, known, SYNONYMS)}",
            hint=f"available: {', '.join(known)}",
        )
    text = known[name].read_text("utf-8")
    text = section(text, part, name) if part else text
    if sys.stdout.isatty():
        Console().print(Markdown(text, hyperlinks=False))
    else:
        click.echo(text, nl=False)


def _title(path: Path) -> str:
    first = path.read_text("utf-8").lstrip().partition("\n")[0]
    return first.lstrip("# ").strip()


def anchor(title: str) -> str:
    """Return a heading's anchor, as on the site."""
    return re.sub(r"[\s-]+", "-", re.sub(r"[^\w\s-]", "", title.lower())).strip("-")


def section(text: str, wanted: str, page: str) -> str:
    """Return a section of a page, with its subsections.

    Raises:
        ConfigError: no heading of that name.
    """
    lines = text.splitlines(keepends=True)
    found = list(_sections(lines))
    key = anchor(wanted)
    chosen = next((s for s in found if anchor(s[1]) == key), None)
    chosen = chosen or next((s for s in found if key and key in anchor(s[1])), None)
    if chosen is None:
        names = [anchor(title) for _, title, _, _ in found]
        raise ConfigError(
            f"no section {wanted[:60]!r} on the page {page}{did_you_mean(key, names)}",
            hint=f"available: {', '.join(names)}",
        )
    return "".join(lines[chosen[2] : chosen[3]])


def _sections(lines: list[str]) -> Iterator[Section]:
    """Yield the sections of a page; headings inside code blocks are none."""
    heads: list[tuple[int, str, int]] = []
    fenced = False
    for number, line in enumerate(lines):
        if line.startswith("```"):
            fenced = not fenced
        match = None if fenced else re.match(r"(#+) (.+)", line)
        if match:
            heads.append((len(match[1]), match[2].replace("`", "").strip(), number))
    for index, (level, title, start) in enumerate(heads):
        later = (n for depth, _, n in heads[index + 1 :] if depth <= level)
        yield level, title, start, next(later, len(lines))
