"""Evaluations of imported answers, and their scores."""

from __future__ import annotations

from typing import Any

from kdharness.harness.analysis.leaderboard import leaderboard
from kdharness.harness.config.evaluation import EvalConfig
from kdharness.harness.paths import Paths
from kdharness.harness.store import Store
from kdharness.harness.types import Answer, Checkpoint, Finish, Score
from support.loopback import Loopback


def imported(store: Store, name: str, text: str = "An answer to {item}, turn {turn}.") -> None:
    """Add an imported model with answers to both benchmarks and without weights."""
    store.add_checkpoint(
        Checkpoint(id=f"id-{name}", name=name, method="import", path="", created=1.0)
    )
    keys = [("mt-bench", str(n), t) for n in range(81, 89) for t in (1, 2)]
    keys += [("alpaca-eval", str(n), 1) for n in range(12)]
    store.add_answers(
        Answer(
            id=f"{name}/{b}/{i}/{t}",
            checkpoint=f"id-{name}",
            bench=b,
            revision="",
            item=i,
            turn=t,
            text=text.format(item=i, turn=t, name=name),
            finish=Finish.STOP,
            prompt_hash="",
            settings="",
            created=1.0,
        )
        for b, i, t in keys
    )


def judged(server: Loopback, **changes: Any) -> EvalConfig:
    """Configure an evaluation of `a` with this server as the judge."""
    settings: dict[str, Any] = {
        "imported": ["a"],
        "benches": ["mt-bench", "alpaca-eval"],
        "judge": [server.spec],
        "timeout": 1.0,
        "concurrency": 8,
    }
    return EvalConfig(**{**settings, **changes})


def scores(store: Store, home: Paths) -> dict[tuple[str, str, str], Score]:
    """Return the scores by checkpoint, benchmark and metric."""
    return {(s.checkpoint, s.bench, s.metric): s for s in leaderboard(store, home)}
