"""Contamination and gaming, from the training run to the leaderboard's marks."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from kdharness.harness import evaluate
from kdharness.harness.config_eval import EvalConfig
from kdharness.harness.leaderboard import leaderboard
from kdharness.harness.paths import Paths
from kdharness.harness.store import Store
from kdharness.harness.types import Checkpoint, Run, RunStatus

from .bench_files import write_assets
from .loopback import Loopback
from .test_evaluate import Listener, imported

Write = Callable[[str, list[Any]], Path]


@pytest.fixture
def store(paths: Paths) -> Any:
    write_assets(paths.home / "assets")
    with Store(paths.store) as opened:
        yield opened


def trained(store: Store, run: str, data: Path, **parents: str) -> None:
    """A checkpoint `id-…` made by a run on some data."""
    store.add_run(Run(id=run, method="sft", status=RunStatus.FINISHED, config_hash="", folder="",
                      config={"data": {"train": [{"path": str(data)}]}}, created=1.0))  # fmt: skip
    imported(store, run)
    store.db.execute("UPDATE checkpoints SET run = ?, parents = ? WHERE id = ?",
                     [run, __import__("json").dumps(parents), f"id-{run}"])  # fmt: skip
    store.db.conn.commit()


def flags(store: Store, paths: Paths, name: str) -> tuple[str, ...]:
    with Loopback() as server:
        config = EvalConfig(imported=[name], benches=["alpaca-eval"], judge=[server.spec])
        evaluate.run(config, paths, store, Listener())
    return next(s.flags for s in leaderboard(store, paths) if s.checkpoint == name)


def chat(text: str) -> dict[str, Any]:
    return {"messages": [{"role": "user", "content": text},
                         {"role": "assistant", "content": "Yes."}]}  # fmt: skip


def test_benchmark_prompts_in_the_training_data_are_marked(
    store: Store, paths: Paths, write_jsonl: Write
) -> None:
    clean = write_jsonl("clean.jsonl", [chat("What is a whisk?")])
    dirty = write_jsonl("dirty.jsonl", [chat("Hi! Say something about number 3. Please."),
                                        chat("say something about NUMBER 7")])  # fmt: skip
    trained(store, "honest", clean)
    trained(store, "leaky", dirty)
    assert not any(f.startswith("contaminated") for f in flags(store, paths, "honest"))
    assert "contaminated:2" in flags(store, paths, "leaky")
    # What it started from counts too; what its teacher was fed does not.
    trained(store, "later", clean, student="id-leaky")
    trained(store, "taught", clean, teacher="id-leaky")
    assert "contaminated:2" in flags(store, paths, "later")
    assert not any(f.startswith("contaminated") for f in flags(store, paths, "taught"))


def test_data_that_is_gone_is_said_not_guessed(
    store: Store, paths: Paths, tmp_path: Path
) -> None:
    trained(store, "old", tmp_path / "deleted.jsonl")
    listener = Listener()
    with Loopback() as server:
        config = EvalConfig(imported=["old"], benches=["alpaca-eval"], judge=[server.spec])
        evaluate.run(config, paths, store, listener)
    assert any("cannot be checked" in message for _, message in listener.said)


def test_one_answer_for_everything_is_marked(store: Store, paths: Paths) -> None:
    store.add_checkpoint(Checkpoint(id="x", name="x", method="import", path="", created=1.0))
    imported(store, "null", "The same long answer to whatever it was that you wanted to know.")
    found = flags(store, paths, "null")
    assert "same-answer:100%" in found
