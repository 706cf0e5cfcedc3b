"""Checkpoints with judgments, for tests of comparisons."""

from __future__ import annotations

from typing import Any

from kdharness.harness.store import Store
from kdharness.harness.types import Checkpoint, Judgment, JudgmentStatus, Run, RunStatus, Score


def add_checkpoint(store: Store, name: str, method: str = "kd", **more: Any) -> Checkpoint:
    """Store a checkpoint, made by the run of the same name if there is one."""
    fields = {"run": name if store.run(name) else None, "path": f"/runs/{name}/final", **more}
    return store.add_checkpoint(
        Checkpoint(id=f"id-{name}", name=name, method=method, created=1.0, **fields)
    )


def verdict(checkpoint: str, item: int, value: float | None, **rest: Any) -> Judgment:
    """Make a judgment of one item; None makes it unreadable."""
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


def add_run(store: Store, name: str, method: str = "kd", **more: Any) -> None:
    """Store a finished run that took a minute."""
    config = {"method": method, "name": name, **more.pop("config", {})}
    store.add_run(
        Run(
            id=name,
            method=method,
            status=RunStatus.FINISHED,
            config=config,
            config_hash=name,
            folder=f"/runs/{name}",
            created=1.0,
            started=10.0,
            finished=70.0,
            checkpoint=name,
            **more,
        )
    )


def lineage(store: Store) -> dict[str, Checkpoint]:
    """Store a diamond lineage: teacher -> kd -> expert, dae from kd and expert; a merge on top."""
    made: dict[str, Checkpoint] = {"hub": add_checkpoint(store, "hub", "model")}
    for name, method, flops, parents in (
        ("teacher", "sft", 1e12, {"student": "hub"}),
        ("cut", "cut", None, {"teacher": "teacher"}),
        ("kd", "kd", 2e12, {"student": "cut", "teacher": "teacher"}),
        ("expert", "sft", 4e12, {"student": "kd"}),
        ("dae", "dae", 8e12, {"student": "kd", "reference": "kd", "expert": "expert"}),
        ("wise", "merge", None, {"reference": "kd", "expert": "expert"}),
    ):
        if method != "cut":
            add_run(store, name, method)
        info = {"flops": flops, "tokens": 1000} if flops else {}
        made[name] = add_checkpoint(
            store,
            name,
            method,
            info=info,
            parents={role: f"id-{parent}" for role, parent in parents.items()},
        )
    return made


def sums(*values: float) -> dict[str, tuple[float, float]]:
    """Return values by question number, each with weight 1."""
    return {str(n): (value, 1.0) for n, value in enumerate(values)}


def make_score(name: str, value: float, n: int = 10, metric: str = "score", **rest: Any) -> Score:
    """Make a leaderboard score without an interval."""
    ends = {"ci_low": None, "ci_high": None, **rest}
    return Score(
        checkpoint=name,
        run=None,
        method="",
        bench="shop",
        metric=metric,
        value=value,
        n=n,
        n_failed=0,
        judge="exact",
        **ends,
    )
