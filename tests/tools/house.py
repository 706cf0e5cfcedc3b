"""Code metrics with a ratchet: `make contracts`.

Prints how many entries, import cycles, contracts, `fmt: skip`s, `Any`s and imports inside functions
the product has, and fails if a value is worse than its limit in `house.json`. Update the limits
with `python tests/tools/house.py --write`.
"""

from __future__ import annotations

import ast
import json
import re
import sys
import tomllib
from collections.abc import Iterator
from pathlib import Path

ROOT = Path(__file__).parent.parent.parent
LIMITS = Path(__file__).with_name("house.json")
PACKAGES = ("harness", "trainers", "judges", "tui")
MORE_IS_BETTER = frozenset({"import contracts"})


def product_files() -> list[Path]:
    """Return every Python file of the product."""
    return sorted(path for room in PACKAGES for path in (ROOT / room).rglob("*.py"))


def module_of(path: Path) -> str:
    """Return the module name of a product file."""
    name = "kdharness." + ".".join(path.relative_to(ROOT).with_suffix("").parts)
    return name.removesuffix(".__init__")


def import_graph() -> dict[str, set[str]]:
    """Map each module to the product modules it imports, lazy and type-only imports included."""
    modules = {module_of(path): ast.parse(path.read_text("utf-8")) for path in product_files()}
    imports: dict[str, set[str]] = {name: set() for name in modules}
    for name, tree in modules.items():
        # Packages are skipped: their `__init__` and their modules import each other.
        if not (ROOT / Path(*name.split(".")[1:]).with_suffix(".py")).exists():
            continue
        for node in ast.walk(tree):
            if isinstance(node, ast.ImportFrom) and node.module:
                targets = [f"{node.module}.{alias.name}" for alias in node.names]
                imports[name] |= {t if t in modules else node.module for t in targets}
            elif isinstance(node, ast.Import):
                imports[name] |= {alias.name for alias in node.names}
        imports[name] = (imports[name] & set(modules)) - {name}
    return imports


def count_cycles(graph: dict[str, set[str]]) -> int:
    """Count the import cycles (Tarjan's strongly connected components of two or more)."""
    index: dict[str, int] = {}
    low: dict[str, int] = {}
    stack: list[str] = []
    count = 0

    def visit(node: str) -> None:
        nonlocal count
        index[node] = low[node] = len(index)
        stack.append(node)
        for target in graph[node]:
            if target not in index:
                visit(target)
                low[node] = min(low[node], low[target])
            elif target in stack:
                low[node] = min(low[node], index[target])
        if low[node] == index[node]:
            size = 0
            while True:
                size += 1
                if stack.pop() == node:
                    break
            count += size > 1

    sys.setrecursionlimit(10_000)
    for node in graph:
        if node not in index:
            visit(node)
    return count


def inner_imports(tree: ast.Module) -> int:
    """Count the import statements inside functions."""
    return sum(
        isinstance(node, (ast.Import, ast.ImportFrom))
        for function in ast.walk(tree)
        if isinstance(function, (ast.FunctionDef, ast.AsyncFunctionDef))
        for node in own_nodes(function)
    )


def own_nodes(function: ast.AST) -> Iterator[ast.AST]:
    """Yield the nodes of a function, without those of nested functions."""
    for child in ast.iter_child_nodes(function):
        if not isinstance(child, (ast.FunctionDef, ast.AsyncFunctionDef)):
            yield child
            yield from own_nodes(child)


def any_count(tree: ast.Module) -> int:
    """Count the uses of `Any` in code."""
    return sum(isinstance(node, ast.Name) and node.id == "Any" for node in ast.walk(tree))


def measure() -> dict[str, float]:
    """Return the metrics by name."""
    texts = [path.read_text("utf-8") for path in product_files()]
    trees = [ast.parse(text) for text in texts]
    lines = sum(text.count("\n") for text in texts)
    top_level = [
        path
        for path in (ROOT / "harness").iterdir()
        if path.suffix == ".py" or (path / "__init__.py").exists()
    ]
    project = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))
    skip = re.compile(r"#\s*fmt: skip")
    return {
        "first-level entries of harness": len(top_level),
        "circles": count_cycles(import_graph()),
        "import contracts": len(project["tool"]["importlinter"]["contracts"]),
        "fmt: skip": sum(len(skip.findall(text)) for text in texts),
        "Any per 1,000 lines": round(1000 * sum(map(any_count, trees)) / lines, 1),
        "imports inside functions": sum(map(inner_imports, trees)),
        "longest file": max(text.count("\n") for text in texts),
    }


def main() -> int:
    """Print the metrics; return 1 if any is worse than its limit."""
    metrics = measure()
    if "--write" in sys.argv:
        LIMITS.write_text(json.dumps(metrics, indent=2) + "\n", "utf-8")
    limits = json.loads(LIMITS.read_text("utf-8"))
    worse = []
    for name, value in metrics.items():
        bad = value < limits[name] if name in MORE_IS_BETTER else value > limits[name]
        worse += [name] * bad
        print(f"{name:<32} {value:>8g}  (limit {limits[name]:g}){'  WORSE' if bad else ''}")
    return 1 if worse else 0


if __name__ == "__main__":
    sys.exit(main())
