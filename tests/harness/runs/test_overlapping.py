"""A second evaluation of the same things says that both would ask for them."""

from __future__ import annotations

import os
from typing import Any

import pytest

from kdharness.harness.config.evaluation import EvalConfig
from kdharness.harness.runs.overlapping import overlapping
from kdharness.harness.runs.status import process_started
from kdharness.harness.store import Store
from kdharness.harness.types import Run, RunStatus


def add_live(
    store: Store, *, pid: int, status: RunStatus = RunStatus.RUNNING, **config: Any
) -> None:
    values = {
        "method": "eval",
        "checkpoints": ["kd"],
        "benches": ["shop", "a/mine.jsonl"],
        **config,
    }
    store.add_run(
        Run(
            id="eval-1",
            method=str(values["method"]),
            status=RunStatus.RUNNING,
            config=values,
            folder="",
            created=1.0,
            config_hash="h",
            pid=pid,
            pid_started=process_started(pid),
        )
    )


@pytest.mark.parametrize(
    ("ours", "theirs", "said"),
    [
        ({}, {}, "eval-1 is evaluating kd on mine, shop as well"),
        ({"benches": ["b/mine.jsonl"]}, {}, "kd on mine as well"),
        ({"checkpoints": ["sft"]}, {}, ""),
        ({"benches": ["ifeval"]}, {}, ""),
        ({"shard": "1/2"}, {"shard": "2/2"}, ""),
        ({"shard": "1/2"}, {"shard": "1/2"}, "eval-1"),
        ({}, {"shard": "1/2"}, "eval-1"),
        ({}, {"method": "kd"}, ""),
    ],
)
def test_the_same_things_are_named(
    store: Store, ours: dict[str, Any], theirs: dict[str, Any], said: str
) -> None:
    add_live(store, pid=os.getppid(), **theirs)
    values = {"checkpoints": ["kd", "dae"], "benches": ["shop", "a/mine.jsonl"], **ours}
    found = overlapping(EvalConfig(**values), store)
    assert len(found) == bool(said) and all(said in sentence for sentence in found)


def test_what_is_this_process_or_has_ended_is_not_named(store: Store) -> None:
    config = EvalConfig(checkpoints=["kd"], benches=["shop"])
    add_live(store, pid=os.getpid())
    assert overlapping(config, store) == []
    store.update_run("eval-1", pid=2**22 + 1, pid_started=1.0)
    assert overlapping(config, store) == []
