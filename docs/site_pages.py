"""Pages of the docs site that are not in `docs/`: an mkdocs hook (see `mkdocs.yml`).

Pages of the repository (`CONTRIBUTING.md`, the READMEs of the packages) are shown as they are,
with their links turned to where the pages are on the site; the API reference has one page per
package, which mkdocstrings fills from the docstrings.
"""

from __future__ import annotations

import posixpath
import re
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parent.parent
REPOSITORY_PAGES = {
    "CONTRIBUTING.md": "contributing.md",
    "CHANGELOG.md": "changelog.md",
    "SECURITY.md": "security.md",
    "trainers/README.md": "extending-methods.md",
    "judges/README.md": "extending-benchmarks.md",
}
"""Page of the repository -> its place on the site, where `judges/` is the page `judges.md`."""
API = {
    "harness": (
        "The harness",
        ("kdharness.harness", "kdharness.harness.types", "kdharness.harness.protocols"),
    ),
    "authors": ("For authors", ("kdharness.trainers", "kdharness.judges")),
    "config": ("Config models", ("kdharness.harness.config",)),
    "stats": ("Statistics", ("kdharness.harness.stats",)),
    "analysis": ("Analysis", ("kdharness.harness.analysis",)),
    "methods": ("Methods", ("kdharness.trainers.methods",)),
    "losses": ("Losses", ("kdharness.trainers.losses",)),
    "teachers": ("Teachers", ("kdharness.trainers.teachers",)),
    "benchmarks": ("Benchmarks", ("kdharness.judges.benchmarks",)),
    "engines": ("Engines", ("kdharness.judges.engines",)),
    "scoring": ("Scoring", ("kdharness.judges.scoring",)),
}
"""Page -> its title, and what it documents."""
FACES = ("kdharness.harness", "kdharness.trainers", "kdharness.judges")
"""Packages of which only the exported names are shown: their parts have pages of their own."""
_LINK = re.compile(r"\]\((?!https?:|#|mailto:)([^)#\s]+)")


def api_page(title: str, names: tuple[str, ...]) -> str:
    """Return a page of the API reference."""
    lines = [f"# {title}", ""]
    for name in names:
        lines.append(f"::: {name}")
        if name in FACES:
            lines += ["    options:", "      show_submodules: false"]
        lines.append("")
    return "\n".join(lines)


def turned(text: str, page: str) -> str:
    """Return a page of the repository with its links as the site needs them.

    Args:
        page: its path in the repository. On the site, pages of `docs/` are at the top, and the
            others where `REPOSITORY_PAGES` puts them.
    """
    here = posixpath.dirname(page)
    below = posixpath.dirname(_on_site(page))

    def turn(match: re.Match[str]) -> str:
        target = posixpath.normpath(posixpath.join(here, match.group(1)))
        return f"]({posixpath.relpath(_on_site(target), below or '.')}"

    return _LINK.sub(turn, text)


def _on_site(path: str) -> str:
    return REPOSITORY_PAGES.get(path, path.removeprefix("docs/"))


def on_files(files: Any, config: Any) -> Any:
    """Add the pages that are not in `docs/`."""
    from mkdocs.structure.files import File

    pages = {
        place: turned((ROOT / page).read_text("utf-8"), page)
        for page, place in REPOSITORY_PAGES.items()
    }
    pages |= {f"api/{name}.md": api_page(*api) for name, api in API.items()}
    for name, text in pages.items():
        files.append(File.generated(config, name, content=text))
    return files


def on_page_markdown(markdown: str, page: Any, config: Any, files: Any) -> str:
    """Turn the links of a page of `docs/`, which may lead out of it."""
    path = page.file.src_uri
    return markdown if page.file.generated_by else turned(markdown, f"docs/{path}")
