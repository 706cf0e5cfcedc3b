"""Stores with a few rows in every table, for tests of whole-store operations."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from kdharness.harness.store import Store
from kdharness.harness.store.labels import Label, text_digest
from kdharness.harness.types import (
    Answer,
    Checkpoint,
    Finish,
    Judgment,
    JudgmentStatus,
    Run,
    RunStatus,
)


def fill_store(
    path: Path, *, runs: int = 3, items: int = 20, host: str = "here", words: int = 5
) -> None:
    """Add runs with curves and events, each with a checkpoint, its answers and judgments."""
    with Store(path) as store:
        for n in range(runs):
            name = f"kd-{n}"
            store.add_run(
                Run(
                    id=name,
                    method="kd",
                    status=RunStatus.FINISHED,
                    config={"seed": n},
                    config_hash=f"h{n}",
                    folder=str(path.parent / "runs" / name),
                    created=100.0 + n,
                    finished=200.0 + n,
                    heartbeat=200.0,
                    host=host,
                    step=10,
                    max_steps=10,
                    loss=1.5,
                    checkpoint=name,
                )
            )
            store.add_progress(
                name,
                events=[(100.0 + n, "started", "", {}), (200.0 + n, "ended", "finished", {})],
                points=[("loss", step, 3.0 / step, 100.0 + step) for step in range(1, 11)],
            )
            mark = f"{host}-{n}"
            store.add_checkpoint(
                Checkpoint(
                    id=f"id-{mark}",
                    name=name,
                    method="kd",
                    path=str(path.parent / "runs" / name / "final"),
                    created=200.0 + n,
                    run=name,
                    step=10,
                    parents={"student": f"id-{host}-{n - 1}"} if n else {},
                )
            )
            store.add_answers(stored_answer(mark, item, words) for item in range(items))
            store.add_judgments(stored_judgment(mark, item, words) for item in range(items))
            store.add_labels(stored_label(stored_answer(mark, item, words)) for item in range(3))
        store.set_bench_note("mt-bench", "1", {"flags": [], "used": 5.0})


def stored_label(answer: Answer, value: float | None = 6.0, **changes: object) -> Label:
    """Make a person's rating of an answer."""
    values: dict[str, object] = {
        "created": 500.0,
        "labeller": "ann",
        "checkpoint": answer.checkpoint,
        "bench": answer.bench,
        "revision": answer.revision,
        "item": answer.item,
        "turn": answer.turn,
        "metric": "rating",
        "answer": answer.id,
        "text": text_digest(answer.text),
        "value": value,
        "blind": True,
        "note": "ünï",
        "info": {"seed": 0},
    }
    return Label(**{**values, **changes})  # type: ignore[arg-type]


def stored_answer(mark: str, item: int, words: int = 5, **changes: object) -> Answer:
    """Make an answer of one item."""
    values: dict[str, object] = {
        "id": f"a-{mark}-{item}",
        "checkpoint": f"id-{mark}",
        "bench": "mt-bench",
        "revision": "1",
        "item": str(item),
        "turn": 1,
        "text": "word " * words,
        "finish": Finish.STOP,
        "prompt_hash": "",
        "settings": "",
        "created": 300.0 + item,
    }
    return Answer(**{**values, **changes})  # type: ignore[arg-type]


def stored_judgment(mark: str, item: int, words: int = 5, **changes: object) -> Judgment:
    """Make a judgment of one item."""
    values: dict[str, object] = {
        "id": f"j-{mark}-{item}",
        "checkpoint": f"id-{mark}",
        "bench": "mt-bench",
        "revision": "1",
        "item": str(item),
        "turn": 1,
        "category": "math",
        "judge": "openai:j",
        "metric": "rating",
        "status": JudgmentStatus.OK,
        "created": 400.0 + item,
        "value": float(item % 10),
        "raw": "because " * words,
        "info": {"len_1": item},
    }
    return Judgment(**{**values, **changes})  # type: ignore[arg-type]


TABLES = {
    "runs": "id",
    "checkpoints": "id",
    "events": "run, time, kind",
    "points": "run, name, step",
    "answers": "id",
    "judgments": "id",
    "labels": "id",
    "bench_notes": "checkpoint, bench, revision",
    "cards": "judge, created",
}


def add_mt_bench_answers(
    store: Store, questions: int, text: Callable[[int, int], str] = "<<{}.{}>>".format
) -> None:
    """Add an imported model `a` with two answers to each of MT-Bench's questions from 81 on."""
    store.add_checkpoint(Checkpoint(id="a", name="a", method="import", path="", created=1.0))
    store.add_answers(
        Answer(
            id=f"{n}.{t}",
            checkpoint="a",
            bench="mt-bench",
            revision="",
            item=str(n),
            turn=t,
            text=text(n, t),
            finish=Finish.STOP,
            prompt_hash="",
            settings="",
            created=1.0,
        )
        for n in range(81, 81 + questions)
        for t in (1, 2)
    )


def contents(path: Path) -> dict[str, list[tuple[object, ...]]]:
    """Return all rows of a store, except row ids and derived tables, with absolute paths."""
    rows: dict[str, list[tuple[object, ...]]] = {}
    with Store(path) as store:
        for table, order in TABLES.items():
            names = [
                f'"{row[1]}"'
                for row in store.db.execute(f"PRAGMA table_info({table})")
                if not (table == "events" and row[1] == "id")
            ]
            found = store.db.execute(f"SELECT {', '.join(names)} FROM {table} ORDER BY {order}")
            rows[table] = [
                tuple(store.places.absolute(v) if isinstance(v, str) else v for v in row)
                for row in found.fetchall()
            ]
    return rows
