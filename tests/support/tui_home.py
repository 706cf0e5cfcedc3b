"""A store with sample data: fixed times, fixed ids, one live run (the test process)."""

from __future__ import annotations

import math
import os
from typing import Any

from kdharness.harness.store import Store
from kdharness.harness.types import (
    Answer,
    Checkpoint,
    Finish,
    Judgment,
    JudgmentStatus,
    Run,
    RunStatus,
    digest,
)

NOW = 1_800_000_000.0


HOSTILE = "[bold red]x[/] \x1b[31m\x1b]52;c;aGk=\x07 \u202egnp.exe \x00 \x9b e" + "\u0301" * 40


ITEMS = [
    (f"q{n}", category)
    for n, category in enumerate(
        ["writing", "math", "coding", "writing", "math", "coding", "writing", "math"], 1
    )
]


def stored_config(method: str, **fields: Any) -> dict[str, Any]:
    """Return a small stored config."""
    values: dict[str, Any] = {
        "method": method,
        "name": None,
        "seed": 42,
        "student": {"model": None, "from": "big-model", "keep_layers": 12},
        "data": {"train": [{"path": "general:train", "kind": "general"}], "max_length": 256},
        "trainer": {"learning_rate": 2e-5, "epochs": 2.0},
        **fields,
    }
    return values


def add_past_run(store: Store, name: str, method: str, age: float, **fields: Any) -> None:
    """Add a run with the given age in seconds."""
    settings = fields.pop("config", stored_config(method, teacher={"model": "hub/big-model"}))
    store.add_run(
        Run(
            id=name,
            method=method,
            config=settings,
            config_hash=digest(settings),
            folder=f"/home/someone/runs/{name}",
            created=NOW - age,
            started=NOW - age + 2,
            host="",
            **{"status": RunStatus.FINISHED, **fields},
        )
    )


def add_curves(store: Store, run: str, steps: int, level: float) -> None:
    """Add falling loss curves with a ripple."""
    points = []
    for step in range(1, steps + 1):
        loss = level * math.exp(-step / 60) + 1.2 + 0.15 * math.sin(step * 1.7)
        values = {
            "loss": loss,
            "kl": loss * 0.7,
            "attention": loss * 0.3,
            "learning_rate": 2e-5 * min(step / 20, 1.0),
            "grad_norm": 3 + math.cos(step),
            "tokens_per_second": 1800 + 40 * math.sin(step),
            "memory_gb": 11.2,
        }
        if step % 20 == 0 or step == 1:
            values |= {"general_loss": 2 + level * math.exp(-step / 90), "domain_loss": 3.1}
        points += [(name, step, value, NOW - 1000 + step) for name, value in values.items()]
    store.add_progress(run, points=points)


def add_past_checkpoint(store: Store, name: str, method: str, parents: dict[str, str]) -> None:
    """Add a checkpoint made by the run of the same name."""
    store.add_checkpoint(
        Checkpoint(
            id=f"id-{name}",
            name=name,
            method=method,
            path=f"/home/someone/runs/{name}/final",
            created=NOW - 5000,
            run=name if store.run(name) else None,
            step=200,
            parents={role: f"id-{parent}" for role, parent in parents.items()},
        )
    )


def add_judgments(store: Store, name: str, skill: float) -> None:
    """Add answers and ratings of a small MT-Bench, shop scores and held-out losses."""
    checkpoint = f"id-{name}"
    answers, judgments = [], []

    def judgment(
        item: str,
        category: str,
        bench: str,
        metric: str,
        judge: str,
        value: float | None,
        weight: float = 1.0,
        turn: int = 1,
        raw: str = "",
        answer: str = "",
    ) -> None:
        judgments.append(
            Judgment(
                id=digest(checkpoint, item, bench, metric, turn),
                checkpoint=checkpoint,
                bench=bench,
                revision="r1",
                item=item,
                turn=turn,
                category=category,
                judge=judge,
                metric=metric,
                status=JudgmentStatus.OK if value is not None else JudgmentStatus.UNREADABLE,
                created=NOW - 4000,
                value=value,
                weight=weight,
                raw=raw,
                answer=answer or None,
            )
        )

    luck = sum(map(ord, name))
    for n, (item, category) in enumerate(ITEMS):
        text = f"{name} answers {item}: the result is {int(skill * 10) + n % 3}.\nBecause of that."
        if item == "q2":
            text = HOSTILE if name == "kd" else "plain " * 30
        answers.append(
            Answer(
                id=digest("a", checkpoint, item),
                checkpoint=checkpoint,
                bench="mt-bench",
                revision="r1",
                item=item,
                turn=1,
                text=text,
                finish=Finish.STOP,
                prompt_hash="p",
                settings="s",
                created=NOW - 4500,
                tokens=20,
                seconds=0.5,
            )
        )
        rating = min(10.0, 3 + skill * 4 + (n * 7 + luck) % 4 * 0.75)
        value = None if item == "q6" and name == "sft" else rating
        judgment(
            item,
            category,
            "mt-bench",
            "rating",
            "openai:judge-x",
            value,
            raw=f"Clear enough. Rating: [[{value}]]",
            answer=digest("a", checkpoint, item),
        )
        judgment(item, category, "shop", "accuracy", "exact", float((n * 5 + luck) % 7 < skill * 5))
        judgment(
            f"general/{item}",
            "general",
            "heldout",
            "general_loss",
            "exact",
            (3 - skill + 0.1 * ((n * 3 + luck) % 5)) * 50,
            weight=50.0,
        )
        judgment(
            f"domain/{item}",
            "domain",
            "heldout",
            "domain_loss",
            "exact",
            (4 - 2 * skill + 0.2 * ((n + luck) % 4)) * 40,
            weight=40.0,
        )
    store.add_answers(answers)
    store.add_judgments(judgments)


def fill_sample_data(store: Store) -> None:
    """Add all sample runs, checkpoints and judgments."""
    dae = stored_config(
        "dae", student={"model": "kd"}, reference={"model": "kd"}, expert={"model": "expert"}
    )
    scores = {
        "method": "eval",
        "checkpoints": ["sft", "kd"],
        "benches": ["mt-bench", "shop"],
        "judge": ["openai:judge-x"],
    }
    add_past_run(
        store,
        "sft",
        "sft",
        90_000,
        step=200,
        max_steps=200,
        loss=1.52,
        checkpoint="sft",
        config=stored_config("sft"),
    )
    add_past_run(store, "kd", "kd", 80_000, step=200, max_steps=200, loss=1.31, checkpoint="kd")
    add_past_run(
        store,
        "expert",
        "sft",
        9_000,
        step=80,
        max_steps=80,
        loss=0.42,
        checkpoint="expert",
        config=stored_config("sft", student={"model": "kd"}),
    )
    add_past_run(
        store,
        "dae",
        "dae",
        1_000,
        step=90,
        max_steps=240,
        loss=0.987,
        pid=os.getpid(),
        status=RunStatus.RUNNING,
        config=dae,
        heartbeat=NOW,
        info={"stage": "training", "stage_began": NOW - 900, "stage_first": 0, "stage_last": NOW},
    )
    add_past_run(
        store,
        "scores",
        "eval",
        400,
        step=7,
        max_steps=16,
        status=RunStatus.STOPPED,
        config=scores,
        info={"stage": "openai:judge-x: verdicts"},
    )
    add_past_run(
        store,
        "broken",
        "kd",
        200,
        status=RunStatus.FAILED,
        max_steps=10,
        error=f"data.jsonl, line 3: {HOSTILE}",
    )
    for name, steps, level in (
        ("sft", 200, 3.0),
        ("kd", 200, 2.4),
        ("expert", 80, 2.0),
        ("dae", 90, 1.5),
    ):
        add_curves(store, name, steps, level)
    store.add_progress(
        "dae",
        events=[
            (NOW - 990, "started", "", {}),
            (NOW - 980, "note", "general:train (general): 240 rows, 30,876 tokens", {}),
            (NOW - 970, "note", HOSTILE, {}),
        ],
    )
    add_past_checkpoint(store, "big-model", "model", {})
    add_past_checkpoint(store, "sft", "sft", {})
    add_past_checkpoint(store, "kd", "kd", {"teacher": "big-model"})
    add_past_checkpoint(store, "expert", "sft", {"student": "kd"})
    for name, skill in (("sft", 0.4), ("kd", 0.6), ("expert", 0.9), ("big-model", 1.2)):
        add_judgments(store, name, skill)
    for bench, scorer in (("mt-bench", "mt-bench"), ("shop", "shop"), ("heldout", "heldout")):
        store.set_bench_note(bench, "r1", {"flags": ["subset:8"], "scorer": scorer, "items": 8})
    store.add_card(
        "openai:judge-x",
        {
            "labels": ["near-chance"],
            "checks": {"intact over corrupted": 0.71, "swap consistency": 0.64},
        },
    )


STEPS: dict[str, Any] = {
    "kd": {
        "method": "kd",
        "teacher": "big-model",
        "student": {"from": "teacher", "keep_layers": 2},
        "data": {"train": "general:train"},
        "trainer": {"epochs": 1},
    },
    "expert": {
        "method": "sft",
        "student": "kd",
        "trainer": {"epochs": 1},
        "data": {"train": {"path": "shop:train", "kind": "domain"}},
    },
    "scores": {"method": "eval", "checkpoints": ["kd", "expert"], "benches": ["shop"]},
}


INVALID_SWEEP = """\
name: wrong
question: Where is the mistake?
steps:
  kd:
    method: kd
    teacher: big-model
    student: {from: teacher, keep_layers: 2}
    data: {train: "general:train"}
    trainer:
      epochs: -1
      learning_rat: 1.0e-4
"""
