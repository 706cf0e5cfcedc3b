"""Contamination and gaming: from training data to flags on the leaderboard."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from kdharness.harness.analysis.leaderboard import leaderboard
from kdharness.harness.config.evaluation import EvalConfig
from kdharness.harness.evaluation import pipeline
from kdharness.harness.paths import Paths
from kdharness.harness.store import Store
from kdharness.harness.types import Checkpoint, Run, RunStatus
from support.evaluations import imported
from support.files import WriteRows
from support.loopback import Loopback
from support.reporters import Listener

pytestmark = pytest.mark.usefixtures("assets_home")


def add_trained(store: Store, run: str, data: Path, method: str = "sft", **parents: str) -> None:
    """Store a checkpoint `id-{run}` trained, or made, by `run` on `data`."""
    store.add_run(
        Run(
            id=run,
            method="sft",
            status=RunStatus.FINISHED,
            config_hash="",
            folder="",
            config={"data": {"train": [{"path": str(data)}]}},
            created=1.0,
        )
    )
    imported(store, run)
    store.db.execute(
        "UPDATE checkpoints SET run = ?, parents = ?, method = ? WHERE id = ?",
        [run, json.dumps(parents), method, f"id-{run}"],
    )
    store.db.conn.commit()


def flags_of(store: Store, paths: Paths, name: str) -> tuple[str, ...]:
    with Loopback() as server:
        config = EvalConfig(imported=[name], benches=["alpaca-eval"], judge=[server.spec])
        pipeline.run(config, paths, store, Listener())
    return next(s.flags for s in leaderboard(store, paths) if s.checkpoint == name)


def one_turn_chat(text: str) -> dict[str, Any]:
    return {
        "messages": [{"role": "user", "content": text}, {"role": "assistant", "content": "Yes."}]
    }


@pytest.mark.slow
def test_benchmark_prompts_in_the_training_data_are_flagged(
    store: Store, paths: Paths, write_jsonl: WriteRows
) -> None:
    clean = write_jsonl("clean.jsonl", [one_turn_chat("What is a whisk?")])
    dirty = write_jsonl(
        "dirty.jsonl",
        [
            one_turn_chat("Hi! Say something about number 3. Please."),
            one_turn_chat("say something about NUMBER 7"),
        ],
    )
    add_trained(store, "honest", clean)
    add_trained(store, "leaky", dirty)
    assert not any(f.startswith("contaminated") for f in flags_of(store, paths, "honest"))
    assert "contaminated:2" in flags_of(store, paths, "leaky")
    # The training data of its student parent counts as well; that of its teacher does not.
    add_trained(store, "later", clean, student="id-leaky")
    add_trained(store, "taught", clean, student="id-honest", teacher="id-leaky")
    assert "contaminated:2" in flags_of(store, paths, "later")
    assert not any(f.startswith("contaminated") for f in flags_of(store, paths, "taught"))
    # What is exported, merged, cut or assembled has the weights of all that it was made from.
    others: list[tuple[str, dict[str, str]]] = [
        ("export", {"source": "id-leaky"}),
        # A merged adapter has the method of the adapter.
        ("sft", {"adapter": "id-leaky"}),
        ("merge", {"reference": "id-honest", "expert": "id-leaky"}),
        ("merge", {"model 1": "id-honest", "model 2": "id-later"}),
        ("cut", {"teacher": "id-leaky"}),
        ("cut", {"expert 0": "id-honest", "expert 1": "id-leaky"}),
    ]
    for number, (method, parents) in enumerate(others):
        add_trained(store, f"made-{number}", clean, method, **parents)
        assert "contaminated:2" in flags_of(store, paths, f"made-{number}"), parents


def test_missing_training_data_is_reported(store: Store, paths: Paths, tmp_path: Path) -> None:
    add_trained(store, "old", tmp_path / "deleted.jsonl")
    listener = Listener()
    with Loopback() as server:
        config = EvalConfig(imported=["old"], benches=["alpaca-eval"], judge=[server.spec])
        pipeline.run(config, paths, store, listener)
    assert any("cannot check the training data" in message for _, message in listener.said)


PAIRS = [
    ("Say number 1.", "The number is 1, as asked."),
    ("Say number 2.", "It is 2."),
    ("Where?", "Here."),
]


def pair(user: str, answer: str) -> dict[str, Any]:
    return {
        "messages": [
            {"role": "system", "content": "Be brief."},
            {"role": "user", "content": user},
            {"role": "assistant", "content": answer},
        ]
    }


def heldout_flags(store: Store, paths: Paths, model: Path, data: Path, heldout: Path) -> set[str]:
    """Return the flags of a model's held-out losses after a run on `data` is recorded for it."""
    config = EvalConfig(
        checkpoints=[str(model)], benches=["heldout"], limit=3, heldout={"domain": str(heldout)}
    )  # type: ignore[arg-type]
    pipeline.run(config, paths, store, Listener())
    store.add_run(
        Run(
            id="r",
            method="sft",
            status=RunStatus.FINISHED,
            config_hash="",
            folder="",
            config={"data": {"train": [{"path": str(data)}]}},
            created=1.0,
        )
    )
    store.db.execute("UPDATE checkpoints SET run = 'r'")
    store.db.conn.commit()
    pipeline.run(config, paths, store, Listener())
    scores = leaderboard(store, paths)
    assert not any("contaminated" in " ".join(s.flags) for s in scores if s.metric != "domain_loss")
    return {flag for score in scores for flag in score.flags}


@pytest.mark.parametrize(
    ("trained_on", "held_out", "expected"),
    [
        (PAIRS, PAIRS[:2], "contaminated:2"),
        (PAIRS, [("where", "here")], "contaminated:1"),
        # The same prompt with another answer; another prompt with the same answer.
        (PAIRS, [("Say number 1.", "No.")], ""),
        (PAIRS, [("Why?", "Here.")], ""),
        # A long row contained entirely in another.
        (
            [
                (
                    "Do say: " + "one two three four five six seven",
                    "eight nine ten eleven twelve 13 14 15",
                )
            ],
            [("one two three four five six seven", "eight nine ten eleven twelve 13 14")],
            "contaminated:1",
        ),
        (
            [("one two three four five six seven", "eight nine ten eleven twelve 13 or so")],
            [("one two three four five six seven", "eight nine ten eleven twelve 13 14 15")],
            "",
        ),
    ],
)
def test_held_out_rows_in_the_training_data_are_flagged(
    store: Store,
    paths: Paths,
    tiny_teacher: Path,
    write_jsonl: WriteRows,
    trained_on: list[tuple[str, str]],
    held_out: list[tuple[str, str]],
    expected: str,
) -> None:
    """From a public report: the loss on the training file itself was shown without a flag."""
    data = write_jsonl("data.jsonl", [pair(*row) for row in trained_on])
    rows = write_jsonl("rows.jsonl", [{"prompt": u, "response": a} for u, a in held_out])
    flags = heldout_flags(store, paths, tiny_teacher, data, rows)
    assert {flag for flag in flags if flag.startswith("contaminated")} == {expected} - {""}


def test_shipped_held_out_rows_are_not_in_the_shipped_training_data() -> None:
    """Templates shared by both sets must not be flagged as contamination."""
    from kdharness.harness.config.data import SourceSpec
    from kdharness.judges.audit.contamination import known_chats
    from kdharness.trainers.data.sources import read_source

    def texts(name: str) -> list[list[str]]:
        return [
            [m["content"] for m in chat["messages"] if m["role"] != "system"]
            for chat in read_source(SourceSpec(path=name))
        ]

    for folder in ("shop", "general"):
        held_out = dict(enumerate(texts(f"{folder}:test")))
        assert known_chats(held_out, texts(f"{folder}:train")) == {}  # type: ignore[arg-type]
        assert len(known_chats(held_out, texts(f"{folder}:test"))) == len(held_out)  # type: ignore[arg-type]


def test_constant_answer_is_flagged(store: Store, paths: Paths) -> None:
    store.add_checkpoint(Checkpoint(id="x", name="x", method="import", path="", created=1.0))
    imported(store, "null", "The same long answer to whatever it was that you wanted to know.")
    flags = flags_of(store, paths, "null")
    assert "same-answer:100%" in flags
