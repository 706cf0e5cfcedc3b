"""What a checkpoint descends from, and what descends from it."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING, Any

from kdharness.harness.types import Checkpoint, Method

if TYPE_CHECKING:
    from kdharness.harness.store.store import Store

TRAINED = frozenset({Method.SFT, Method.KD, Method.DAE})


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


def made_from(checkpoint: Checkpoint) -> tuple[str, ...]:
    """Return the ids of the checkpoints whose weights a checkpoint continues, without teachers.

    That is the student of a training, the adapter that was merged into its base, and all that it
    was merged, assembled, cut or exported from otherwise.
    """
    for role in ("student", "adapter"):
        if role in checkpoint.parents:
            return (checkpoint.parents[role],)
    return () if checkpoint.method in TRAINED else tuple(dict.fromkeys(checkpoint.parents.values()))


def weight_ancestors(store: Store, checkpoint: Checkpoint) -> list[Checkpoint]:
    """Return a checkpoint and all whose weights it continues, the nearest first.

    A merge has several; teachers are none, as they teach through training rows alone.
    """
    line = [checkpoint]
    for one in line:  # it grows at its end
        parents = (store.checkpoint(key) for key in made_from(one))
        known = {other.id for other in line}
        line += [parent for parent in parents if parent is not None and parent.id not in known]
    return line


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
