"""What a checkpoint descends from, and what descends from it."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING, Any

from kdharness.harness.types import Checkpoint

if TYPE_CHECKING:
    from kdharness.harness.store.store import Store


def lineage(
    store: Store, name: str, limit: int = 200, seen: set[str] | None = None
) -> list[dict[str, Any]]:
    """Return a checkpoint and its ancestors as rows of a tree, each with depth and role.

    A checkpoint that occurs again is not expanded again: its `again` is true. `seen` contains the
    ids visited before, and is updated.
    """
    rows: list[dict[str, object]] = []
    seen = set() if seen is None else seen

    def walk(key: str, depth: int, role: str) -> None:
        checkpoint = store.checkpoint(key)
        if len(rows) >= limit:
            return
        if checkpoint is None:
            rows.append(
                {
                    "id": f"{len(rows)}",
                    "name": key,
                    "depth": depth,
                    "role": role,
                    "method": "",
                    "run": "",
                    "path": "",
                    "again": False,
                }
            )
            return
        again = checkpoint.id in seen
        seen.add(checkpoint.id)
        rows.append(
            {
                "id": f"{len(rows)}",
                "name": checkpoint.name,
                "depth": depth,
                "role": role,
                "method": checkpoint.method,
                "run": checkpoint.run or "",
                "path": checkpoint.path,
                "again": again,
            }
        )
        if not again:
            for parent_role, parent in sorted(checkpoint.parents.items()):
                walk(parent, depth + 1, parent_role)

    walk(name, 0, "")
    return rows


def lineage_lines(store: Store, checkpoint: str, depth: int = 0, role: str = "") -> list[str]:
    """Return a checkpoint and its parents as indented lines, as `show` prints them."""
    found = store.checkpoint(checkpoint)
    label = f"{role}: " if role else ""
    if found is None or depth > 8:
        return [f"{'  ' * depth}{label}{checkpoint}"]
    lines = [f"{'  ' * depth}{label}{found.name} ({found.method})"]
    for parent_role, parent in sorted(found.parents.items()):
        lines += lineage_lines(store, parent, depth + 1, parent_role)
    return lines


def descendants(store: Store, checkpoints: Iterable[str]) -> dict[str, Checkpoint]:
    """Return all checkpoints that descend from some, without these."""
    start = set(checkpoints)
    found: dict[str, Checkpoint] = {}
    children: dict[str, list[Checkpoint]] = {}
    for checkpoint in store.checkpoints():
        for parent in checkpoint.parents.values():
            children.setdefault(parent, []).append(checkpoint)
    waiting = list(start)
    while waiting:
        for child in children.get(waiting.pop(), ()):
            if child.id not in start and child.id not in found:
                found[child.id] = child
                waiting.append(child.id)
    return found
