"""Further differences between checkpoints: their settings, and the items that flipped.

Pure functions over the store's rows, shared by `kdharness compare` and the app.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

from kdharness.harness.analysis.compare import Key, Side, Table
from kdharness.harness.config.summary import config_diff
from kdharness.harness.stats.metric_specs import metric_spec
from kdharness.harness.stats.rows import Row, counted_once
from kdharness.harness.store import Store
from kdharness.harness.types import Checkpoint, Run

NO_RUN = "no run stored"
SETTING_COLUMNS = ("field", "checkpoint", "value")
FLIP_COLUMNS = (
    "bench",
    "judge",
    "base",
    "other",
    "n",
    "wrong_to_right",
    "right_to_wrong",
    "items",
)
_FIGURES = frozenset({"tokens", "labelled", "flops"})
"""Keys of a checkpoint's info about its cost; see `costs`."""


# ---------------------------------------------------------------- settings


def settings_that_differ(
    store: Store, checkpoints: Sequence[Checkpoint]
) -> list[tuple[str, list[Any]]]:
    """Return (field, one value per checkpoint) for the fields whose values differ.

    First the method and run (its folder) of each, then the runs' configs. A checkpoint that was
    imported or cut has no run: its values read `NO_RUN` and do not count as a difference.
    """
    runs = [store.run(c.run) if c.run else None for c in checkpoints]
    about = [_about(checkpoint, run) for checkpoint, run in zip(checkpoints, runs, strict=True)]
    configs = [
        {k: v for k, v in run.config.items() if k not in ("name", "method")}
        for run in runs
        if run is not None
    ]
    differences = config_diff(*about) + _interfaces(checkpoints)
    for field, values in config_diff(*configs) if len(configs) > 1 else []:
        rest = iter(values)
        differences.append((field, [NO_RUN if run is None else next(rest) for run in runs]))
    return differences


def _interfaces(checkpoints: Sequence[Checkpoint]) -> list[tuple[str, list[Any]]]:
    """Return the hashes of tokenizer, template and generation config, if only they differ.

    The hash of an adapter includes its base's, so with different weights it always differs.
    """
    models = {(c.weights, c.interface) for c in checkpoints if c.weights}
    if len({weights for weights, _ in models}) == len(models):
        return []
    return [("interface", [c.interface[:7] or None for c in checkpoints])]


def _about(checkpoint: Checkpoint, run: Run | None) -> dict[str, object]:
    """Return what is known about a checkpoint besides its config."""
    about: dict[str, object] = {"method": checkpoint.method}
    if run is not None:
        # A merge run makes one checkpoint per alpha, all with the same config.
        alpha = {"alpha": checkpoint.info["alpha"]} if "alpha" in checkpoint.info else {}
        return {**about, "run": run.folder or run.id, **alpha}
    made = {k: v for k, v in checkpoint.info.items() if k not in _FIGURES}
    return {**made, **about, "run": NO_RUN, "path": checkpoint.path or None}


def setting_rows(
    sides: Sequence[Side], found: Iterable[tuple[str, Sequence[Any]]]
) -> list[dict[str, object]]:
    """Return the rows of `compare --what settings`: one per field and checkpoint."""
    return [
        {"field": field, "checkpoint": side.name, "value": value}
        for field, values in found
        for side, value in zip(sides, values, strict=True)
    ]


def setting_text(value: object) -> str | None:
    """Format a setting in YAML's flow style; text is returned unchanged."""
    if value is None or isinstance(value, str):
        return value
    return json.dumps(value, ensure_ascii=False, default=str)


# ---------------------------------------------------------------- flips


@dataclass(frozen=True)
class Flip:
    """One item whose value differs between two checkpoints; `flipped` if it crossed the middle."""

    bench: str
    judge: str
    item: str
    category: str
    metric: str
    first: float
    second: float
    flipped: bool

    @property
    def gained(self) -> bool:
        """Whether the value increased: for every metric of single items, higher is better."""
        return self.second > self.first

    def as_dict(self) -> dict[str, object]:
        """Return an item of `compare --what flips`."""
        return {
            "item": self.item,
            "category": self.category,
            "metric": self.metric,
            "base_value": self.first,
            "other_value": self.second,
            "flip": "wrong to right" if self.gained else "right to wrong",
        }


@dataclass(frozen=True)
class Flips:
    """Flipped items on one benchmark under one judge, largest changes first.

    `n` is the number of judgments that both sides have.
    """

    bench: str
    revision: str
    judge: str
    base: str
    other: str
    n: int
    items: tuple[Flip, ...]

    @property
    def wrong_to_right(self) -> int:
        """Number of items that the other gained."""
        return sum(item.gained for item in self.items)

    @property
    def right_to_wrong(self) -> int:
        """Number of items that the other lost."""
        return len(self.items) - self.wrong_to_right

    def as_dict(self, limit: int | None = None) -> dict[str, object]:
        """Return a row of `compare --what flips`, with at most `limit` items."""
        return {
            "bench": self.bench,
            "revision": self.revision,
            "judge": self.judge,
            "base": self.base,
            "other": self.other,
            "n": self.n,
            "wrong_to_right": self.wrong_to_right,
            "right_to_wrong": self.right_to_wrong,
            "items": [item.as_dict() for item in self.items[:limit]],
        }


def flips(first: Table, second: Table) -> list[Flip]:
    """Return the items whose values differ between both tables, flips first, then by size.

    A value flips when it crosses the middle: wrong to right, lost to won; a rating flips when it
    moves by two points or more.
    """
    moved = [
        pair
        for key in _both(first, second)
        for pair in _pairs(key, first[key], second[key])
        if pair.first != pair.second
    ]
    return sorted(moved, key=_flips_first)


def flip_counts(base: Side, other: Side) -> list[Flips]:
    """Return the flipped items, one entry per benchmark and judge."""
    counts = []
    for key in _both(base.table, other.table):
        pairs = _pairs(key, base.table[key], other.table[key])
        if pairs:
            flipped = sorted((pair for pair in pairs if pair.flipped), key=_flips_first)
            counts.append(Flips(*key, base.name, other.name, len(pairs), tuple(flipped)))
    return counts


def _both(first: Table, second: Table) -> list[Key]:
    """Return the groups in both tables, without held-out losses, which are not right or wrong."""
    return [key for key in first if key in second and key[0] != "heldout"]


def _flips_first(pair: Flip) -> tuple[bool, float]:
    return (not pair.flipped, -abs(pair.second - pair.first))


def _pairs(key: Key, mine: Sequence[Row], theirs: Sequence[Row]) -> list[Flip]:
    bench, _, judge = key
    others = _by_item(theirs)
    pairs = []
    for (item, metric), (category, value) in _by_item(mine).items():
        if (item, metric) not in others:
            continue
        other = others[item, metric][1]
        pairs.append(
            Flip(
                bench,
                judge,
                item,
                category,
                metric,
                value,
                other,
                metric_spec(metric).flipped(value, other),
            )
        )
    return pairs


def _by_item(rows: Sequence[Row]) -> dict[tuple[str, str], tuple[str, float]]:
    """Map (item, metric) to its category and the mean over its turns and orders."""
    sums: dict[tuple[str, str], list[float]] = {}
    categories: dict[tuple[str, str], str] = {}
    for row in counted_once(rows):
        if row.value is not None:
            sums.setdefault((row.item, row.metric), []).append(row.value)
            categories[row.item, row.metric] = row.category
    return {key: (categories[key], sum(values) / len(values)) for key, values in sums.items()}
