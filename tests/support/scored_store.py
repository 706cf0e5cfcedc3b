"""Checkpoints with verdicts, as comparisons read them."""

from __future__ import annotations

from typing import Any

from kdharness.harness.store import Store
from kdharness.harness.types import Checkpoint, Judgment, JudgmentStatus


def add_checkpoint(store: Store, name: str, method: str = "kd", **more: Any) -> Checkpoint:
    fields = {"run": name if store.run(name) else None, "path": f"/runs/{name}/final", **more}
    return store.add_checkpoint(
        Checkpoint(id=f"id-{name}", name=name, method=method, created=1.0, **fields)
    )


def verdict(checkpoint: str, item: int, value: float | None, **rest: Any) -> Judgment:
    fields: dict[str, Any] = {
        "turn": 1,
        "judge": "exact",
        "created": 1.0,
        "bench": "shop",
        "revision": "r",
        "metric": "accuracy",
        "category": "math" if item % 2 else "words",
        **rest,
    }
    status = JudgmentStatus.OK if value is not None else JudgmentStatus.UNREADABLE
    parts = [checkpoint, item, fields["bench"], fields["metric"], fields["turn"], fields["created"]]
    return Judgment(
        id="/".join(map(str, parts)),
        checkpoint=f"id-{checkpoint}",
        item=f"i{item}",
        value=value,
        status=status,
        **fields,
    )
