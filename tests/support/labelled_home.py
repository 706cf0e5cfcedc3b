"""Homes with judged answers that people can label."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from kdharness.harness.analysis.labelling import label_tasks
from kdharness.harness.analysis.prompts import BenchTexts
from kdharness.harness.store import Store
from kdharness.harness.types import Answer, Judgment
from support.scored_store import add_checkpoint
from support.store_rows import stored_answer, stored_judgment

JUDGE = "openai:j"
PAIR_BENCHES = {"pair": ("mt-bench-pair", (0, 1)), "preference": ("alpaca-eval-2", (0,))}
"""Metric -> benchmark, and the orders in which it is judged."""


def add_ratings(
    store: Store, name: str, ratings: Sequence[float], *, turns: int = 1, **judged: object
) -> None:
    """Add a checkpoint whose answers a judge rated: one rating per item, the same for each turn.

    `judged` are fields of the judgments.
    """
    add_checkpoint(store, name)
    answers: list[Answer] = []
    judgments: list[Judgment] = []
    for n, rating in enumerate(ratings):
        for turn in range(1, turns + 1):
            mark, place = f"{name}-{turn}", {"checkpoint": f"id-{name}", "turn": turn}
            answer = stored_answer(mark, n, **place, text=f"answer {n}.{turn} of {name}")
            fields = {"judge": JUDGE, "value": float(rating), "answer": answer.id, **judged}
            mark = f"{mark}-{fields.get('metric')}-{fields.get('revision')}"
            judgment = stored_judgment(mark, n, **place, **fields)
            answers.append(replace(answer, item=f"q{n}"))
            judgments.append(replace(judgment, item=f"q{n}"))
    store.add_answers(answers)
    store.add_judgments(judgments)


def add_pairs(
    store: Store, name: str, baseline: str, outcomes: Sequence[float], metric: str = "pair"
) -> None:
    """Add a checkpoint compared with another one: in both orders, which agree, or by preference."""
    bench, orders = PAIR_BENCHES[metric]
    for side in (baseline, name):
        add_checkpoint(store, side)
        answers = [
            stored_answer(side, n, checkpoint=f"id-{side}", text=f"answer {n} of {side}")
            for n in range(len(outcomes))
        ]
        store.add_answers(replace(answer, item=f"q{answer.item}") for answer in answers)
    judgments: list[Judgment] = []
    for n, outcome in enumerate(outcomes):
        for order in orders:
            judgment = stored_judgment(
                f"{name}-{order}",
                n,
                checkpoint=f"id-{name}",
                bench=bench,
                metric=metric,
                order=order,
                baseline=baseline,
                value=outcome,
                answer=f"a-{name}-{n}",
            )
            judgments.append(replace(judgment, item=f"q{n}"))
    store.add_judgments(judgments)


def add_labels(
    store: Store,
    name: str,
    values: Sequence[float],
    *,
    bench: str = "mt-bench",
    baseline: str = "",
    labeller: str = "ann",
    turn: int = 1,
    sampled: bool = True,
) -> None:
    """Label a turn of a checkpoint's first answers."""
    checkpoint = store.checkpoint(name)
    assert checkpoint is not None
    tasks = {
        task.answer.item: task
        for task in label_tasks(store, bench, [checkpoint], BenchTexts())
        if task.answer.turn == turn and task.baseline == baseline
    }
    store.add_labels(
        replace(
            tasks[f"q{n}"].label(float(value), labeller, 1000.0 + n),
            info={"seed": 0} if sampled else {},
        )
        for n, value in enumerate(values)
    )
