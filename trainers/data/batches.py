"""The batch plan of a training run: the rows of every micro-batch, derived from a seed alone.

Micro-batches are length-bucketed: the rows of a pool are sorted by length, and neighbours are
taken together, starting at a random offset. `trainer.length_groups` says what is taken together: a
micro-batch, a whole step, or nothing. With several kinds of rows (DAE) the wanted share is kept by
error diffusion, so that it holds for any data sizes; rows of one kind are grouped, so that most
micro-batches of a step need only one teacher.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import chain
from typing import Any

import torch

from kdharness.harness.config.data import DataSpec
from kdharness.harness.config.trainer import TrainerSpec
from kdharness.harness.errors import ConfigError
from kdharness.harness.types import IGNORE_INDEX
from kdharness.trainers.data.dataset import TrainRow
from kdharness.trainers.data.layout import layout_of
from kdharness.trainers.data.streams import DRAWING, POOL, Stream, make_streams, wanted_shares

MOST_STEPS = 1_000_000
"""Optimiser steps of a run: some 20,000 a second are planned, each in 100 bytes or more."""


@dataclass(frozen=True)
class BatchPlan:
    """Micro-batches in order; `per_step` of them (over all processes) form an optimiser step.

    `tokens` counts real tokens and `padded` what padding adds, over the whole plan. Packed rows
    have none.
    """

    batches: list[list[int]]
    per_step: int
    tokens: int
    labelled: int
    padded: int
    share: dict[str, float] = field(default_factory=dict)
    packed: bool = False

    @property
    def steps(self) -> int:
        """Optimiser steps."""
        return len(self.batches) // self.per_step

    @property
    def padding_share(self) -> float:
        """Padding as a share of all positions."""
        return self.padded / max(self.padded + self.tokens, 1)

    def until(self, steps: int, rows: Sequence[TrainRow]) -> BatchPlan:
        """Return the plan cut to its first steps, for a training that ended early."""
        kept = self.batches[: steps * self.per_step]
        return _measure(rows, kept, self.per_step, self.share, packed=self.packed)

    def for_rank(self, rank: int, world: int) -> list[list[int]]:
        """Return the micro-batches of one process: every `world`-th one."""
        return self.batches[rank::world]


def plan_batches(
    rows: Sequence[TrainRow],
    data: DataSpec,
    trainer: TrainerSpec,
    seed: int,
    world: int = 1,
    drawing: int = DRAWING,
) -> BatchPlan:
    """Plan every micro-batch of a training run.

    The plan ends at `max_steps`, at the first step that reaches `max_tokens` real tokens, or at the
    first step that completes `epochs` (with a domain share, an epoch ends when all general rows
    were seen). `drawing` is how rows are drawn, see `DRAWING`.

    If a step's rows are grouped by length as a whole or not at all, they are chosen first and cut
    into micro-batches afterwards: 1 x 8, 2 x 4 and 8 x 1 rows (and one or two processes) train on
    the same rows in the same steps. If micro-batches are grouped, a step has rows of many lengths,
    as far as it has many micro-batches.
    """
    shares = wanted_shares(rows, data)
    streams = make_streams(rows, data, trainer, seed, drawing)
    per_step = trainer.accumulation * world
    owed = dict.fromkeys(shares, 0.0)
    steps = _steps_wanted(rows, shares, data, trainer, per_step, drawing)
    _refuse_endless(trainer, rows, per_step, steps)
    kinds = Counter(row.kind for row in rows)
    if data.domain_share is not None:
        kinds = Counter(general=kinds["general"])
    batches: list[list[int]] = []
    tokens, drawn = 0, Counter[str]()

    def are_drawn() -> bool:
        """Return whether the epochs of a token budget are drawn, of each kind that they are of."""
        least = {kind: math.ceil(trainer.epochs * count - 1e-6) for kind, count in kinds.items()}
        whole = drawing < 4 or all(drawn[kind] >= count for kind, count in least.items())
        return whole and drawn.total() >= steps[1]

    while not _enough(trainer, len(batches) // per_step, tokens, are_drawn, steps[0]):
        if trainer.tokens_per_batch is not None:
            step = [
                _budget_batch(streams, shares, owed, trainer.tokens_per_batch)
                for _ in range(per_step)
            ]
        else:
            step = _step_rows(streams, shares, owed, trainer, per_step)
        batches += step
        if len(batches) > per_step * MOST_STEPS:
            field = "epochs" if trainer.max_tokens is None else "max_tokens"
            raise _too_many(field, MOST_STEPS + 1)
        tokens += sum(len(rows[index]) for batch in step for index in batch)
        drawn.update(rows[index].kind for batch in step for index in batch)
    return _measure(rows, batches, per_step, shares, packed=trainer.packing)


def _refuse_endless(
    trainer: TrainerSpec, rows: Sequence[TrainRow], per_step: int, wanted: tuple[int, int]
) -> None:
    """Refuse more steps than can be planned before the first one, rather than plan for hours.

    Args:
        trainer: the config's trainer.
        rows: all rows.
        per_step: micro-batches of a step.
        wanted: steps and rows of all epochs.

    Raises:
        ConfigError: the field that asks for them.
    """
    lengths = [len(row) for row in rows]
    budget = trainer.tokens_per_batch
    # Of a step; what is counted in tokens takes at least so many steps.
    most_tokens = per_step * max(max(lengths), budget or trainer.batch_size * max(lengths))
    steps = {
        name: count
        for name, count in (
            ("max_steps", trainer.max_steps),
            ("max_tokens", trainer.max_tokens and trainer.max_tokens // most_tokens),
        )
        if count is not None
    } or {"epochs": wanted[1] * min(lengths) // most_tokens if budget else wanted[0]}
    field, least = min(steps.items(), key=lambda item: item[1])
    if least > MOST_STEPS:
        raise _too_many(field, least)


def _too_many(field: str, steps: int) -> ConfigError:
    return ConfigError(
        f"{steps:,} or more steps: a run has at most {MOST_STEPS:,}, all planned before the first",
        where=f"trainer.{field}",
        hint="to train until early_stop ends the run, set max_steps to the most it may take",
    )


def _steps_wanted(
    rows: Sequence[TrainRow],
    shares: dict[str, float],
    data: DataSpec,
    trainer: TrainerSpec,
    per_step: int,
    drawing: int,
) -> tuple[int, int]:
    """Return (optimiser steps, rows) of all epochs; a token budget counts rows.

    The last step is whole, and so is the last epoch: what is missing comes from the next one.
    """
    general = sum(row.kind == "general" for row in rows)
    epoch_rows = len(rows) if data.domain_share is None else general / shares["general"]
    wanted = trainer.epochs * epoch_rows
    if drawing == 1:
        return max(1, round(wanted / (trainer.batch_size * per_step))), max(1, round(wanted))
    drawn = max(1, math.ceil(wanted - 1e-6))  # 0.1 of 30 rows is 3.0000000000000004
    return math.ceil(drawn / (trainer.batch_size * per_step)), drawn


def _enough(
    trainer: TrainerSpec, step: int, tokens: int, are_drawn: Callable[[], bool], wanted: int
) -> bool:
    """Return whether the plan is long enough."""
    if trainer.max_steps is not None and step >= trainer.max_steps:
        return True
    if trainer.max_tokens is not None and tokens >= trainer.max_tokens:
        return True
    if trainer.max_steps is not None or trainer.max_tokens is not None:
        return False
    return are_drawn() if trainer.tokens_per_batch is not None else step >= wanted


def _step_rows(
    streams: dict[str, Stream],
    shares: dict[str, float],
    owed: dict[str, float],
    trainer: TrainerSpec,
    per_step: int,
) -> list[list[int]]:
    """Draw the rows of one step, in micro-batches that are sorted by kind and length.

    `owed` carries each kind's row deficit from step to step.
    """
    size = trainer.batch_size
    counts = dict.fromkeys(shares, 0)
    for _ in range(size * per_step):
        for name in owed:
            owed[name] += shares[name]
        kind = max(owed, key=lambda name: owed[name])
        owed[kind] -= 1
        counts[kind] += 1
    if trainer.grouping != "micro-batch":
        taken = _taken(streams, counts)
        return [taken[i : i + size] for i in range(0, len(taken), size)]
    batches: list[list[int]] = [[]]
    for kind, count in counts.items():
        while count > 0:
            if len(batches[-1]) == size:
                batches.append([])
            part = streams[kind].take(min(count, size - len(batches[-1])))
            batches[-1] += part
            count -= len(part)
    # Processes work on neighbours, and wait for the longest.
    return sorted(batches, key=lambda batch: _kind_and_length(streams, batch))


def _taken(streams: Mapping[str, Stream], counts: Mapping[str, int]) -> list[int]:
    """Take a number of rows of each kind."""
    taken: list[int] = []
    for kind, count in counts.items():
        while count > 0:
            part = streams[kind].take(count)
            taken += part
            count -= len(part)
    return taken


def _kind_and_length(streams: Mapping[str, Stream], batch: Sequence[int]) -> tuple[int, int]:
    rows = next(iter(streams.values())).rows
    return list(streams).index(rows[batch[0]].kind), max(len(rows[index]) for index in batch)


def _budget_batch(
    streams: dict[str, Stream], shares: dict[str, float], owed: dict[str, float], budget: int
) -> list[int]:
    """Draw rows of one kind that fill a budget of padded tokens."""
    kind = max(owed, key=lambda name: owed[name] + shares[name])
    taken = streams[kind].take(POOL, budget)
    for name in owed:
        owed[name] += shares[name] * len(taken)
    owed[kind] -= len(taken)
    return taken


def _measure(
    rows: Sequence[TrainRow],
    batches: list[list[int]],
    per_step: int,
    shares: dict[str, float],
    *,
    packed: bool,
) -> BatchPlan:
    chosen = [[rows[index] for index in batch] for batch in batches]
    tokens, labelled, padded = measure(chosen, packed=packed)
    counts = dict.fromkeys(shares, 0)
    for row in chain.from_iterable(chosen):
        counts[row.kind] += 1
    total = max(sum(counts.values()), 1)
    share = {kind: count / total for kind, count in counts.items()}
    return BatchPlan(batches, per_step, tokens, labelled, padded, share, packed)


def measure(batches: Iterable[Sequence[TrainRow]], *, packed: bool) -> tuple[int, int, int]:
    """Return (tokens without padding, labelled positions, padding) of some micro-batches."""
    tokens = labelled = padded = 0
    for batch in batches:
        lengths = [len(row) for row in batch]
        tokens += sum(lengths)
        padded += 0 if packed else max(lengths) * len(lengths) - sum(lengths)
        labelled += sum(row.labelled for row in batch)
    return tokens, labelled, padded


class Collator:
    """Rows as padded tensors: input_ids, attention_mask, labels [B, T]; index, kind [B]; layout."""

    def __init__(
        self, pad_id: int, kinds: Sequence[str], side: str = "right", *, packing: bool = False
    ) -> None:
        self.pad_id = pad_id
        self.packing = packing
        self.kinds = {kind: number for number, kind in enumerate(kinds)}
        self.side = side

    def __call__(self, rows: Sequence[dict[str, Any]]) -> dict[str, Any]:
        """Pad to the longest row of the batch."""
        width = max(len(row["input_ids"]) for row in rows)

        def padded(values: list[int], fill: int) -> list[int]:
            rest = [fill] * (width - len(values))
            return values + rest if self.side == "right" else rest + values

        batch = {
            "input_ids": torch.tensor([padded(r["input_ids"], self.pad_id) for r in rows]),
            "attention_mask": torch.tensor([padded([1] * len(r["input_ids"]), 0) for r in rows]),
            "labels": torch.tensor([padded(r["labels"], IGNORE_INDEX) for r in rows]),
            "index": torch.tensor([r["index"] for r in rows]),
            "kind": torch.tensor([self.kinds[r["kind"]] for r in rows]),
        }
        sampled = [place for place, row in enumerate(rows) if row.get("sampled")]
        return {**batch, "layout": layout_of(batch, packing=self.packing, sampled=sampled)}
