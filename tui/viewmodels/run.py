"""A run's lineage, as rows. No widgets."""

from __future__ import annotations

from typing import Any

from kdharness.harness.config.summary import origins
from kdharness.harness.store import Store
from kdharness.harness.store.lineage import lineage
from kdharness.harness.types import Run


def lineage_rows(store: Store, run: Run) -> list[dict[str, Any]]:
    """Return the ancestors of a run's checkpoint, or of its inputs."""
    if run.checkpoint:
        return lineage(store, run.checkpoint)
    rows: list[dict[str, Any]] = [
        {
            "id": "0",
            "name": run.id,
            "depth": 0,
            "role": "",
            "method": run.method,
            "run": run.id,
            "path": "no checkpoint yet",
            "again": False,
        }
    ]
    seen: set[str] = set()
    for role, name in origins(run.config):
        for row in lineage(store, name, seen=seen):
            rows.append(
                {
                    **row,
                    "id": str(len(rows)),
                    "depth": row["depth"] + 1,
                    "role": row["role"] or role,
                }
            )
    return rows
