"""The batch plan of a training run: the rows of every micro-batch, derived from a seed alone.

Micro-batches are length-bucketed: the rows of a pool are sorted by length, and neighbours are
taken together, starting at a random offset. With several kinds of rows (DAE) the wanted share is
kept by error diffusion, so that it holds for any data sizes; rows of one kind are grouped, so that
most micro-batches of a step need only one teacher.
"""

from __future__ import annotations

import bisect
import random
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import torch

from kdharness.harness.config.data import DataSpec
from kdharness.harness.config.trainer import TrainerSpec
from kdharness.harness.errors import ConfigError
from kdharness.harness.types import IGNORE_INDEX
from kdharness.trainers.data.dataset import TrainRow
from kdharness.trainers.data.layout import layout_of

POOL = 256


@dataclass(frozen=True)
class BatchPlan:
    """Micro-batches in order; `per_step` of them (over all processes) form an optimiser step.

    `tokens` counts real tokens and `padded` what padding adds, over the whole plan.
    """

    batches: list[list[int]]
    per_step: int
    tokens: int
    labelled: int
    padded: int
    share: dict[str, float] = field(default_factory=dict)

    @property
    def steps(self) -> int:
        """Optimiser steps."""
        return len(self.batches) // self.per_step

    @property
    def padding_share(self) -> float:
        """Padding as a share of all positions."""
        return self.padded / max(self.padded + self.tokens, 1)

    def until(self, steps: int, rows: Sequence[TrainRow]) -> BatchPlan:
        """Return the plan of a training that ended early, after so many steps."""
        kept = self.batches[: steps * self.per_step]
        return _measure(rows, kept, self.per_step, self.share)

    def for_rank(self, rank: int, world: int) -> list[list[int]]:
        """Return the micro-batches of one process: every `world`-th one."""
        return self.batches[rank::world]


class Stream:
    """Rows of one kind: every row once per epoch, in length-sorted runs from a pool."""

    def __init__(
        self,
        rows: Sequence[TrainRow],
        groups: dict[int, float],
        members: dict[int, list[int]],
        seed: str,
    ) -> None:
        """Take sources with their weights (`groups`) and the row indices of each (`members`)."""
        self.rows = rows
        self.random = random.Random(seed)
        self.groups = groups
        self.members = members
        self.queues: dict[int, list[int]] = {source: [] for source in groups}
        self.owed = dict.fromkeys(groups, 0.0)
        self.pool: list[tuple[int, int]] = []
        self.equal = len(set(groups.values())) == 1
        self.epoch: list[int] = []

    def _draw(self) -> int | None:
        """Return the next row; None at the end of an epoch when all weights are equal."""
        if self.equal:
            if not self.epoch:
                return None
            return self.epoch.pop()
        total = sum(self.groups.values())
        for source, weight in self.groups.items():
            self.owed[source] += weight / total
        source = max(self.owed, key=lambda name: self.owed[name])
        self.owed[source] -= 1
        if not self.queues[source]:
            self.queues[source] = self.random.sample(
                self.members[source], len(self.members[source])
            )
        return self.queues[source].pop()

    def _refill(self) -> None:
        while len(self.pool) < POOL:
            row = self._draw()
            if row is None:
                if self.pool:
                    return
                every_row = [row for rows in self.members.values() for row in rows]
                self.epoch = self.random.sample(every_row, len(every_row))
                continue
            bisect.insort(self.pool, (len(self.rows[row]), row))

    def take(self, count: int, budget: int | None = None) -> list[int]:
        """Take up to `count` rows of similar length, at most `budget` padded tokens in total."""
        self._refill()
        start = self.random.randrange(len(self.pool))
        start = max(0, min(start, len(self.pool) - count))
        end = min(start + count, len(self.pool))
        if budget is not None:
            while end - start > 1 and self.pool[end - 1][0] * (end - start) > budget:
                end -= 1
        taken = [row for _, row in self.pool[start:end]]
        del self.pool[start:end]
        return taken


def wanted_shares(rows: Sequence[TrainRow], data: DataSpec) -> dict[str, float]:
    """Return the target share of rows of each kind: by `domain_share`, else by data size.

    Raises:
        ConfigError: a domain share without both general and other rows.
    """
    kinds = sorted({row.kind for row in rows})
    if data.domain_share is None:
        return {kind: sum(row.kind == kind for row in rows) / len(rows) for kind in kinds}
    others = [kind for kind in kinds if kind != "general"]
    if not others or "general" not in kinds:
        raise ConfigError(
            f"domain_share needs both general and domain rows; the data has only {kinds[0]} rows",
            where="data.domain_share",
        )
    share = {kind: data.domain_share / len(others) for kind in others}
    return {"general": 1 - data.domain_share, **share}


def make_streams(rows: Sequence[TrainRow], data: DataSpec, seed: int) -> dict[str, Stream]:
    """Return one stream per kind."""
    streams = {}
    for kind in sorted({row.kind for row in rows}):
        members: dict[int, list[int]] = {}
        for index, row in enumerate(rows):
            if row.kind == kind:
                members.setdefault(row.source, []).append(index)
        groups = {source: data.train[source].weight for source in members}
        streams[kind] = Stream(rows, groups, members, f"{seed}/{kind}")
    return streams


def plan_batches(
    rows: Sequence[TrainRow], data: DataSpec, trainer: TrainerSpec, seed: int, world: int = 1
) -> BatchPlan:
    """Plan every micro-batch of a training run.

    The plan ends at `max_steps`, at the first step that reaches `max_tokens` real tokens, or after
    `epochs` (with a domain share, an epoch ends when all general rows were seen).

    The rows of a step are chosen first and cut into micro-batches afterwards, so that 1 x 8,
    2 x 4 and 8 x 1 rows (and one or two processes) train on the same rows in the same steps.
    """
    shares = wanted_shares(rows, data)
    streams = make_streams(rows, data, seed)
    per_step = trainer.accumulation * world
    owed = dict.fromkeys(shares, 0.0)
    steps = _steps_wanted(rows, shares, data, trainer, per_step)
    batches: list[list[int]] = []
    tokens = drawn = 0
    while not _enough(trainer, len(batches) // per_step, tokens, drawn, steps):
        if trainer.tokens_per_batch is not None:
            step = [
                _budget_batch(streams, shares, owed, trainer.tokens_per_batch)
                for _ in range(per_step)
            ]
        else:
            step = _step_rows(streams, shares, owed, trainer.batch_size, per_step)
        batches += step
        tokens += sum(len(rows[index]) for batch in step for index in batch)
        drawn += sum(map(len, step))
    return _measure(rows, batches, per_step, shares)


def _steps_wanted(
    rows: Sequence[TrainRow],
    shares: dict[str, float],
    data: DataSpec,
    trainer: TrainerSpec,
    per_step: int,
) -> tuple[int, int]:
    """Return (optimiser steps, rows) of all epochs; a token budget counts rows."""
    general = sum(row.kind == "general" for row in rows)
    epoch_rows = len(rows) if data.domain_share is None else general / shares["general"]
    wanted = trainer.epochs * epoch_rows
    return max(1, round(wanted / (trainer.batch_size * per_step))), max(1, round(wanted))


def _enough(
    trainer: TrainerSpec, step: int, tokens: int, drawn: int, wanted: tuple[int, int]
) -> bool:
    """Return whether the plan is long enough."""
    if trainer.max_steps is not None and step >= trainer.max_steps:
        return True
    if trainer.max_tokens is not None and tokens >= trainer.max_tokens:
        return True
    if trainer.max_steps is not None or trainer.max_tokens is not None:
        return False
    return drawn >= wanted[1] if trainer.tokens_per_batch is not None else step >= wanted[0]


def _step_rows(
    streams: dict[str, Stream],
    shares: dict[str, float],
    owed: dict[str, float],
    batch_size: int,
    per_step: int,
) -> list[list[int]]:
    """Draw the rows of one step, sorted by kind and length and split into micro-batches.

    `owed` carries each kind's row deficit from step to step.
    """
    counts = dict.fromkeys(shares, 0)
    for _ in range(batch_size * per_step):
        for name in owed:
            owed[name] += shares[name]
        kind = max(owed, key=lambda name: owed[name])
        owed[kind] -= 1
        counts[kind] += 1
    taken: list[int] = []
    for kind, count in counts.items():
        while count > 0:
            part = streams[kind].take(count)
            taken += part
            count -= len(part)
    return [taken[i : i + batch_size] for i in range(0, len(taken), batch_size)]


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
    rows: Sequence[TrainRow], batches: list[list[int]], per_step: int, shares: dict[str, float]
) -> BatchPlan:
    tokens = labelled = padded = 0
    counts = dict.fromkeys(shares, 0)
    for batch in batches:
        lengths = [len(rows[index]) for index in batch]
        tokens += sum(lengths)
        padded += max(lengths) * len(lengths) - sum(lengths)
        for index in batch:
            labelled += rows[index].labelled
            counts[rows[index].kind] += 1
    total = max(sum(counts.values()), 1)
    return BatchPlan(
        batches, per_step, tokens, labelled, padded, {k: n / total for k, n in counts.items()}
    )


class Collator:
    """Rows as padded tensors: input_ids, attention_mask, labels [B, T]; index, kind [B]; layout."""

    def __init__(self, pad_id: int, kinds: Sequence[str], side: str = "right") -> None:
        self.pad_id = pad_id
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
        return {**batch, "layout": layout_of(batch)}
