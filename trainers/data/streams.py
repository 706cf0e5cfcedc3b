"""The order in which rows are drawn: one stream for each kind, from one or several sources."""

from __future__ import annotations

import bisect
import random
from collections.abc import Mapping, Sequence
from itertools import accumulate

from kdharness.harness.config.data import DataSpec
from kdharness.harness.config.trainer import TrainerSpec
from kdharness.harness.errors import ConfigError
from kdharness.trainers.data.dataset import TrainRow

POOL = 256
DRAWING = 4
"""How rows are drawn; a resumed run keeps the number with which it began.

1: epochs were rounded to the nearest step, unequal weights were those of whole sources, the
assistant's turns of a prompt were learnt, and an answer's own end of turn was kept. 2: an epoch is
whole and a weight is that of a row; with unequal weights a micro-batch could have a row many times.
3: with a token budget an epoch could leave out rows of one kind for more of another.
"""


class Stream:
    """Rows of one kind: every row once per epoch, drawn from a pool in runs of similar length."""

    def __init__(
        self,
        rows: Sequence[TrainRow],
        weights: Mapping[int, float],
        members: dict[int, list[int]],
        seed: str,
        *,
        drawing: int = DRAWING,
        grouped: bool = True,
        packed: bool = False,
    ) -> None:
        """Fill the stream.

        Args:
            rows: all rows.
            weights: sources with the weight of each of their rows.
            members: the row indices of each source.
            seed: what the order depends on.
            drawing: see `DRAWING`.
            grouped: whether rows that are taken together have similar lengths.
            packed: whether they will stand in a micro-batch without padding.
        """
        self.rows = rows
        self.grouped, self.packed = grouped, packed
        self.random = random.Random(seed)
        self.groups = {
            source: weight * (len(members[source]) if drawing > 1 else 1)
            for source, weight in weights.items()
        }
        self.members = members
        self.queues: dict[int, list[int]] = {source: [] for source in weights}
        self.owed = dict.fromkeys(weights, 0.0)
        self.pool: list[tuple[float, int]] = []
        self.equal = len(set(weights.values())) == 1
        self.apart = drawing > 2 and not self.equal
        self.pooled: dict[int, None] = {}
        """The rows in the pool, the one that waits longest first."""
        self.epoch: list[int] = []

    def _draw(self, *, again: bool) -> int | None:
        """Return the next row; None at the end of an epoch when all weights are equal.

        With unequal weights: None if only rows that are in the pool could follow, unless `again`.
        """
        if self.equal:
            if not self.epoch:
                return None
            return self.epoch.pop()
        total = sum(self.groups.values())
        owed = {name: self.owed[name] + weight / total for name, weight in self.groups.items()}
        source = max(owed, key=lambda name: owed[name])
        row = self._next_of(source, again=again)
        if row is not None:
            owed[source] -= 1
            self.owed = owed
        return row

    def _next_of(self, source: int, *, again: bool) -> int | None:
        """Return the next row of a source that is not in the pool: copies would be neighbours."""
        if not self.queues[source]:
            members = self.members[source]
            self.queues[source] = self.random.sample(members, len(members))
        queue = self.queues[source]
        for at in reversed(range(len(queue))):
            if queue[at] not in self.pooled:
                return queue.pop(at)
        return queue.pop() if again else None

    def _refill(self, least: int) -> None:
        while len(self.pool) < POOL:
            row = self._draw(again=len(self.pool) < least)
            if row is None:
                if self.pool:
                    return
                every_row = [row for rows in self.members.values() for row in rows]
                self.epoch = self.random.sample(every_row, len(every_row))
                continue
            key = len(self.rows[row]) if self.grouped else self.random.random()
            bisect.insort(self.pool, (key, row))
            if self.apart:
                self.pooled[row] = None

    def _fitting(self, start: int, end: int, budget: int) -> int:
        """Return how many rows of a part of the pool fit into a budget of positions, at least 1."""
        lengths = [len(self.rows[row]) for _, row in self.pool[start:end]]
        if self.packed:
            sizes = list(accumulate(lengths))
        else:
            longest = accumulate(lengths, max)
            sizes = [length * count for count, length in enumerate(longest, 1)]
        return max(1, bisect.bisect_right(sizes, budget))

    def take(self, count: int, budget: int | None = None) -> list[int]:
        """Take up to `count` rows that stand together, at most `budget` positions in total."""
        self._refill(count if budget is None else 1)
        start = self.random.randrange(len(self.pool))
        if self.apart:
            # Rows of large weight come again when they are taken: chance would leave some out.
            oldest = next(iter(self.pooled))
            place = next(at for at, (_, row) in enumerate(self.pool) if row == oldest)
            start = place - self.random.randrange(count)
        start = max(0, min(start, len(self.pool) - count))
        end = min(start + count, len(self.pool))
        if budget is not None:
            end = start + self._fitting(start, end, budget)
        taken = [row for _, row in self.pool[start:end]]
        del self.pool[start:end]
        for row in taken:
            self.pooled.pop(row, None)
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


def make_streams(
    rows: Sequence[TrainRow],
    data: DataSpec,
    trainer: TrainerSpec,
    seed: int,
    drawing: int = DRAWING,
) -> dict[str, Stream]:
    """Return one stream per kind.

    Raises:
        ConfigError: a weight that nothing is weighed against.
    """
    members: dict[str, dict[int, list[int]]] = {}
    for index, row in enumerate(rows):
        members.setdefault(row.kind, {}).setdefault(row.source, []).append(index)
    if drawing > 1:
        _refuse_lone_weights(members, data)
    return {
        kind: Stream(
            rows,
            {source: data.train[source].weight for source in members[kind]},
            members[kind],
            f"{seed}/{kind}",
            drawing=drawing,
            grouped=trainer.grouping != "none",
            packed=trainer.packing,
        )
        for kind in sorted(members)
    }


def _refuse_lone_weights(members: Mapping[str, Mapping[int, object]], data: DataSpec) -> None:
    """Refuse a weight on a source that is the only one of its kind.

    Raises:
        ConfigError: the source and its kind.
    """
    beside = {source for kind in members.values() if len(kind) > 1 for source in kind}
    for kind, sources in sorted(members.items()):
        for source in sources:
            spec = data.train[source]
            if spec.weight != 1 and source not in beside:
                raise ConfigError(
                    f"weight: {spec.weight:g} has no effect: {spec.path} is the only source of "
                    f"{kind} rows, and a weight is relative to other sources of the same kind",
                    where=f"data.train.{source}.weight",
                    hint="remove it; data.domain_share sets how many rows of each kind are drawn",
                )
