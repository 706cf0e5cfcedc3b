"""The test files that a change is about: `make check`.

A change is what is not committed or not pushed yet; without either, the last commit. Printed are
the test files that were changed, those named after a changed module, and those that import one.
Beyond `MOST` files the ones that are nearest to the change are taken: `make test` runs them all.
"""

from __future__ import annotations

import ast
import subprocess
import sys
from collections.abc import Iterable
from pathlib import Path

ROOT = Path(__file__).parent.parent.parent
MOST = 18
"""Test files that two cores run within the minute."""
PAGES = {"docs": "tests/test_docs.py", "data": "tests/data"}
"""Folders without modules -> their tests."""


def changed_files() -> list[str]:
    """Return the files of the change, by path in the repository; none outside of a repository."""
    status = _git("status", "--porcelain", "--no-renames", "--untracked-files=all")
    files = [line[3:] for line in status]
    files += _git("diff", "--name-only", "@{upstream}...HEAD")
    return files or _git("diff", "--name-only", "HEAD~1", "HEAD")


def affected(changed: Iterable[str], tests: Iterable[Path]) -> list[str]:
    """Return the test files of a change, nearest first.

    Args:
        changed: paths in the repository.
        tests: all test files, by path in the repository.
    """
    found: dict[str, int] = {}
    paths = [Path(name) for name in changed]
    modules = {_module(path): path for path in paths if path.suffix == ".py"}
    for folder, test in PAGES.items():
        if any(path.parts[0] == folder and path.suffix != ".py" for path in paths):
            found[test] = 0
    for test in sorted(tests):
        if test in paths:
            found[str(test)] = 0
            continue
        imported = _imported(test) & modules.keys()
        near = [path for path in modules.values() if _is_named_after(test, path)]
        if near:
            found[str(test)] = 1 if any(_is_beside(test, path) for path in near) else 2
        elif imported:
            beside = any(_is_beside(test, modules[module]) for module in imported)
            found[str(test)] = 3 if beside else 4
    return sorted(found, key=lambda name: (found[name], name))


def _git(*args: str) -> list[str]:
    done = subprocess.run(["git", *args], cwd=ROOT, capture_output=True, text=True, check=False)
    return done.stdout.splitlines() if done.returncode == 0 else []


def _module(path: Path) -> str:
    """Return the name that a file is imported by; `tests/support` is imported as `support`."""
    parts = path.with_suffix("").parts
    name = ".".join(parts[1:] if parts[0] == "tests" else ("kdharness", *parts))
    return name.removesuffix(".__init__")


def _imported(test: Path) -> set[str]:
    """Return the modules that a file imports, and the names that may be modules."""
    names: set[str] = set()
    for node in ast.walk(ast.parse((ROOT / test).read_text("utf-8"))):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            names |= {node.module, *(f"{node.module}.{alias.name}" for alias in node.names)}
    return names


def _is_named_after(test: Path, path: Path) -> bool:
    words = test.stem.removeprefix("test_").split("_")
    return path.parts[0] != "tests" and words[: path.stem.count("_") + 1] == path.stem.split("_")


def _is_beside(test: Path, path: Path) -> bool:
    """Return whether a test file is in the folder of the tests of a product file's folder."""
    return test.parent.parts[1:] == path.parent.parts


def main() -> None:
    """Print the files, and on stderr how many others there are."""
    tests = [path.relative_to(ROOT) for path in (ROOT / "tests").rglob("test_*.py")]
    found = affected(changed_files(), tests)
    if len(found) > MOST:
        print(f"{len(found) - MOST} further test files: make test", file=sys.stderr)
    print("\n".join(found[:MOST] or ["tests/test_layout.py"]))


if __name__ == "__main__":
    main()
