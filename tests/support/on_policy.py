"""Short trainings with on-policy rows, on rows of a few tokens."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from kdharness.harness.paths import Paths
from kdharness.harness.runs.rollouts import Rollout, read_rollouts

ROWS = [{"prompt": f"What is {n}?", "completion": f"It is {n}."} for n in range(16)]


def on_policy_values(
    folder: Path, student: Path, teacher: Path, method: str = "kd", **trainer: Any
) -> dict[str, Any]:
    """Return the values of a config whose rows leave room for 8 sampled tokens or more."""
    path = folder / "rows.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in ROWS), "utf-8")
    values: dict[str, Any] = {
        "method": method,
        "student": {"model": str(student)},
        "data": {"train": [{"path": str(path)}], "max_length": 48},
        "trainer": {
            "max_steps": 6,
            "batch_size": 4,
            "learning_rate": 0.01,
            "warmup_ratio": 0.0,
            "schedule": "constant",
            "device": "cpu",
            "on_policy": {"share": 0.5, "max_new_tokens": 8},
            **trainer,
        },
    }
    if method == "kd":
        values["teacher"] = str(teacher)
    else:
        values["expert"] = str(teacher)
        domain = folder / "domain.jsonl"
        rows = [{"prompt": f"Sell {n}", "completion": f"{n} sold"} for n in range(8)]
        domain.write_text("".join(json.dumps(row) + "\n" for row in rows), "utf-8")
        values["data"]["train"].append({"path": str(domain), "kind": "domain"})
    return values


def rollouts_of(paths: Paths, name: str) -> list[Rollout]:
    """Return what a run's student sampled."""
    return list(read_rollouts(paths.run(name)))
