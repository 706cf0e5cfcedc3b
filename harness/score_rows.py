"""Stored judgments as a scorer sees them: without the judge's words, each counted once."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

from kdharness.harness.types import Judgment, JudgmentStatus

OK = JudgmentStatus.OK.value


class Row(NamedTuple):
    """The columns of `Store.judgment_rows`."""

    item: str
    turn: int
    category: str
    metric: str
    status: str
    value: float | None
    weight: float
    order: int
    baseline: str
    info: str
    created: float

    @property
    def details(self) -> dict[str, Any]:
        """`info`, decoded."""
        return dict(json.loads(self.info))


def from_judgments(judgments: Iterable[Judgment]) -> list[Row]:
    """Rows of judgments that are already in memory."""
    return [
        Row(
            j.item, j.turn, j.category, j.metric, j.status.value, j.value, j.weight, j.order,
            j.baseline, json.dumps(dict(j.info)), j.created,
        )
        for j in judgments
    ]  # fmt: skip


def counted_once(rows: Sequence[Row]) -> list[Row]:
    """One row for each thing that was to be judged: the newest that holds a verdict.

    A re-run appended to one file, as FastChat does it, would otherwise count twice. `rows` come
    oldest first.
    """
    kept: dict[tuple[str, int, str, int, str], Row] = {}
    for row in rows:
        key = (row.item, row.turn, row.metric, row.order, row.baseline)
        if row.status == OK or key not in kept or kept[key].status != OK:
            kept[key] = row
    return list(kept.values())


@dataclass(frozen=True)
class ScoreContext:
    """What a scorer may know besides the rows.

    Attributes:
        as_published: read the rows as the benchmark's own scripts would: re-runs count again,
            and AlpacaEval's difficulties go by row position.
        asset: finds a pulled file (asset, name) or returns None.
        note: what was stored about the benchmark's revision.
    """

    as_published: bool = False
    asset: Callable[[str, str], Path | None] = lambda _asset, _name: None
    note: dict[str, Any] = field(default_factory=dict)
