"""Homes with judged answers that people can label."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from kdharness.harness.store import Store
from support.scored_store import add_checkpoint
from support.store_rows import stored_answer, stored_judgment

JUDGE = "openai:j"


def add_ratings(
    store: Store, name: str, ratings: Sequence[float], *, turns: int = 1, judge: str = JUDGE
) -> None:
    """Add a checkpoint whose answers a judge rated: one rating per item, the same for each turn."""
    add_checkpoint(store, name)
    for n, rating in enumerate(ratings):
        for turn in range(1, turns + 1):
            mark, place = f"{name}-{turn}", {"checkpoint": f"id-{name}", "turn": turn}
            answer = stored_answer(mark, n, **place, text=f"answer {n}.{turn} of {name}")
            judgment = stored_judgment(
                mark, n, **place, value=float(rating), answer=answer.id, judge=judge
            )
            store.add_answers([replace(answer, item=f"q{n}")])
            store.add_judgments([replace(judgment, item=f"q{n}")])


def add_pairs(store: Store, name: str, baseline: str, outcomes: Sequence[float]) -> None:
    """Add a checkpoint compared with another one in both orders, which agree."""
    for side in (baseline, name):
        add_checkpoint(store, side)
        answers = [
            stored_answer(side, n, checkpoint=f"id-{side}", text=f"answer {n} of {side}")
            for n in range(len(outcomes))
        ]
        store.add_answers(replace(answer, item=f"q{answer.item}") for answer in answers)
    for n, outcome in enumerate(outcomes):
        for order in (0, 1):
            judgment = stored_judgment(
                f"{name}-{order}",
                n,
                checkpoint=f"id-{name}",
                bench="mt-bench-pair",
                metric="pair",
                order=order,
                baseline=baseline,
                value=outcome,
                answer=f"a-{name}-{n}",
            )
            store.add_judgments([replace(judgment, item=f"q{n}")])
