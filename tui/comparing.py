"""Checkpoints set against each other: paired differences, items that flipped. No widgets."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from kdharness.harness.leaderboard import is_lower_better, leaderboard, question_sums
from kdharness.harness.paths import Paths
from kdharness.harness.score_rows import Row
from kdharness.harness.store import Store
from kdharness.harness.types import Score
from kdharness.tui.boards import is_hidden

if TYPE_CHECKING:
    from kdharness.harness.scoring import Difference

Table = dict[tuple[str, str, str], list[Row]]


@dataclass(frozen=True)
class Line:
    """One figure: the base's value, and each other checkpoint's difference to it."""

    bench: str
    metric: str
    judge: str
    value: float
    differences: Mapping[str, Difference]
    adjusted: Mapping[str, float]

    @property
    def lower_is_better(self) -> bool:
        """Which way is up."""
        return is_lower_better(self.metric)


@dataclass(frozen=True)
class Flip:
    """One item whose verdict moved between two checkpoints."""

    bench: str
    judge: str
    item: str
    category: str
    metric: str
    first: float
    second: float
    flipped: bool


def tables_of(store: Store, checkpoint: str) -> Table:
    """The judgments of a checkpoint, by benchmark, revision and judge."""
    found = store.checkpoint(checkpoint)
    if found is None:
        return {}
    return {
        (g["bench"], g["revision"], g["judge"]): [
            Row._make(row)
            for row in store.judgment_rows(found.id, g["bench"], g["revision"], g["judge"])
        ]
        for g in store.judgment_groups()
        if g["checkpoint"] == found.id
    }


def differences(
    store: Store, paths: Paths, names: Sequence[str], tables: Mapping[str, Table]
) -> list[Line]:
    """Every figure that is a mean over items, with paired differences (other minus base).

    A figure whose rows don't add up to its score (a length-controlled win rate, a correlation)
    cannot be paired and is left out.
    """
    from kdharness.harness.scoring import paired_difference

    base, others = names[0], names[1:]
    scores = [s for s in leaderboard(store, paths, checkpoints=[base], panels=False)
              if s.value is not None and not is_hidden(s.metric)]  # fmt: skip
    lines: list[Line] = []
    for score in scores:
        rows = _matching(tables[base], score)
        if rows is None:
            continue
        key, sums = rows
        found: dict[str, Difference] = {}
        for other in others:
            theirs = tables[other].get(key)
            if theirs is None:
                continue
            gap = paired_difference(question_sums(theirs, score.metric), sums)
            if gap is not None:
                found[other] = gap
        if found:
            value = score.value or 0.0
            lines.append(Line(score.bench, score.metric, score.judge, value, found, {}))
    return _adjusted(lines, others)


def _matching(
    table: Table, score: Score
) -> tuple[tuple[str, str, str], dict[str, tuple[float, float]]] | None:
    """The group of rows whose mean is the score."""
    for key, rows in table.items():
        if (key[0], key[2]) != (score.bench, score.judge):
            continue
        sums = question_sums(rows, score.metric)
        weight = sum(w for _, w in sums.values())
        if not weight or score.value is None:
            continue
        mean = sum(v for v, _ in sums.values()) / weight
        if abs(mean - score.value) <= 1e-6 * max(1.0, abs(score.value)):
            return key, sums
    return None


def _adjusted(lines: list[Line], others: Sequence[str]) -> list[Line]:
    """Holm's correction over a benchmark's figures: many categories make false alarms."""
    from kdharness.harness.scoring import holm

    tables: dict[tuple[str, str], list[int]] = {}
    for index, line in enumerate(lines):
        tables.setdefault((line.bench, line.judge), []).append(index)
    adjusted: list[dict[str, float]] = [{} for _ in lines]
    for places in tables.values():
        for other in others:
            have = [i for i in places if other in lines[i].differences]
            values = holm([lines[i].differences[other].p for i in have])
            for index, value in zip(have, values, strict=True):
                adjusted[index][other] = value
    return [
        Line(line.bench, line.metric, line.judge, line.value, line.differences, extra)
        for line, extra in zip(lines, adjusted, strict=True)
    ]


HALVES = {"preference": 1.5, "rating": None}


def flips(first: Table, second: Table) -> list[Flip]:
    """Items both were judged on and whose verdicts differ, the largest moves first.

    A verdict flips when it crosses the middle: wrong to right, lost to won; a rating when it
    moves by two points or more.
    """
    found: list[Flip] = []
    for key in first:
        if key not in second or key[0] == "heldout":
            continue
        mine, theirs = _by_item(first[key]), _by_item(second[key])
        for item, (category, metric, value) in mine.items():
            if item not in theirs or theirs[item][2] == value:
                continue
            other = theirs[item][2]
            middle = HALVES.get(metric, 0.5)
            crossed = (
                abs(other - value) >= 2 if middle is None
                else (value >= middle) != (other >= middle)
            )  # fmt: skip
            found.append(Flip(key[0], key[2], item, category, metric, value, other, crossed))
    found.sort(key=lambda f: (not f.flipped, -abs(f.second - f.first)))
    return found


def _by_item(rows: Sequence[Row]) -> dict[str, tuple[str, str, float]]:
    sums: dict[str, list[float]] = {}
    about: dict[str, tuple[str, str]] = {}
    for row in rows:
        if row.value is not None:
            sums.setdefault(row.item, []).append(row.value)
            about[row.item] = (row.category, row.metric)
    return {item: (*about[item], sum(v) / len(v)) for item, v in sums.items()}


def config_of(store: Store, checkpoint: str) -> dict[str, Any]:
    """The config of the run that made a checkpoint; what is known of it otherwise."""
    found = store.checkpoint(checkpoint)
    if found is None:
        return {}
    run = store.run(found.run) if found.run else None
    if run is not None:
        return {k: v for k, v in run.config.items() if k != "name"}
    return {"method": found.method, "path": found.path, **json.loads(json.dumps(found.info))}
