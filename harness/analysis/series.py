"""Checkpoints that belong on one line of the trade-off: along a setting, and along a run.

*Along a setting*: runs whose configs differ in one number alone, such as SFT at several learning
rates; with the start as the learning rate 0 it is that method's frontier. *Along a run*: its step
checkpoints, from its start to its end, which show whether the way is a slope or a cliff.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass
from itertools import takewhile
from pathlib import Path
from typing import Any, Literal

from kdharness.harness.store import Store
from kdharness.harness.types import Checkpoint, Run, digest

AXES = (
    "trainer.learning_rate",
    "trainer.l2_start",
    "trainer.distill_weight",
    "trainer.non_target_weight",
    "data.domain_share",
)
"""Numbers of a config that trade gain against retention; the first is 0 at the start."""
ASIDE = frozenset(
    {
        "name",
        "data.heldout",
        "trainer.save_every",
        "trainer.keep",
        "trainer.eval_every",
        "trainer.eval_benches",
        "trainer.max_loss",
        "trainer.device",
        "trainer.threads",
        "trainer.workers",
        "trainer.track",
    }
)
"""Fields that say what is saved, measured or used on the way: the training is the same."""
_STEP = re.compile(r"checkpoint-(\d+)")


@dataclass(frozen=True)
class Series:
    """Checkpoints along one line.

    Attributes:
        name: the runs' common name, or the run's.
        kind: what the line is along: a setting (`axis`) or a run (`run`).
        field: the setting, or `step`.
        checkpoints: their names, by ascending value.
        values: of the field.
    """

    name: str
    kind: Literal["axis", "run"]
    field: str
    checkpoints: tuple[str, ...]
    values: tuple[float, ...]

    def as_dict(self) -> dict[str, Any]:
        """Return a `series` of `tradeoff --format json`."""
        return {
            "name": self.name,
            "kind": self.kind,
            "field": self.field,
            "checkpoints": list(self.checkpoints),
            "values": list(self.values),
        }


def series_of(store: Store, names: Collection[str]) -> list[Series]:
    """Return the lines through some checkpoints, by their names: settings first, then runs.

    A line needs two checkpoints besides the start.
    """
    known = [c for c in store.checkpoints() if c.name in names]
    return [*_along_settings(store, known), *_along_runs(store, known)]


def _series(
    name: str,
    kind: Literal["axis", "run"],
    field: str,
    points: Mapping[float, str],
    start: str | None,
) -> Series:
    """Return a line; the start, if it is a point and not one of these, is its 0."""
    found = dict(points)
    if start is not None and start not in found.values():
        found.setdefault(0.0, start)
    values = tuple(sorted(found))
    return Series(name, kind, field, tuple(found[value] for value in values), values)


def _start_of(checkpoint: Checkpoint, known: Iterable[Checkpoint]) -> str | None:
    """Return the name of what a checkpoint was trained from, if it is among those known."""
    parent = checkpoint.parents.get("student", "")
    return next((other.name for other in known if other.id == parent), None)


# ---------------------------------------------------------------- along a setting


def _along_settings(store: Store, known: Collection[Checkpoint]) -> list[Series]:
    runs = {c.name: store.run(c.run) for c in known if c.run}
    made = {c.name: c for c in known}
    found = []
    for field in AXES:
        families: dict[str, dict[float, str]] = {}
        for name, run in runs.items():
            value = _number(run.config, field) if run is not None else None
            if run is not None and value is not None:
                families.setdefault(_without(run, field), {}).setdefault(value, name)
        for points in families.values():
            if len(points) < 2:
                continue
            start = None
            if field == AXES[0]:
                start = _start_of(made[next(iter(points.values()))], known)
            method = made[next(iter(points.values()))].method
            label = f"{_common(points.values(), field) or method} over {field.rpartition('.')[2]}"
            found.append(_series(label, "axis", field, points, start))
    return found


def _number(config: Mapping[str, Any], field: str) -> float | None:
    """Return a number of a config; None if it has none, or another value, there."""
    value: object = config
    for part in field.split("."):
        value = value.get(part) if isinstance(value, Mapping) else None
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        return None
    return float(value)


def _without(run: Run, field: str) -> str:
    """Return the identity of a run's config without one of its fields, and those of `ASIDE`."""

    def plain(value: object, path: str) -> object:
        if not isinstance(value, Mapping):
            return value
        parts = {key: f"{path}.{key}" if path else str(key) for key in value}
        return {k: plain(value[k], p) for k, p in parts.items() if p != field and p not in ASIDE}

    return digest(plain(run.config, ""))


def _common(names: Iterable[str], field: str) -> str:
    """Return what the names of runs begin with, without the setting and its value, or nothing."""
    names = list(names)
    leaf = field.rpartition(".")[2]
    same = takewhile(lambda letters: len(set(letters)) == 1, zip(*names, strict=False))
    prefix = "".join(letters[0] for letters in same)
    if leaf in prefix:
        prefix = prefix[: prefix.rindex(leaf)]
    elif prefix not in names:
        # Cut at a separator: what differs may begin alike.
        prefix = prefix[: max(prefix.rfind(mark) for mark in "-_. ") + 1]
    return prefix.rstrip("-_. ")


# ---------------------------------------------------------------- along a run


def step_of(checkpoint: Checkpoint) -> tuple[str, int] | None:
    """Return the run and the step of a step checkpoint; None for every other one."""
    # Without its files only the name is left.
    path = Path(checkpoint.path) if checkpoint.path else Path("runs", checkpoint.name)
    found = _STEP.fullmatch(path.name)
    if found is None or path.parent.parent.name != "runs":
        return None
    return path.parent.name, int(found[1])


def _along_runs(store: Store, known: Collection[Checkpoint]) -> list[Series]:
    steps: dict[str, dict[float, str]] = {}
    for checkpoint in known:
        found = step_of(checkpoint)
        if found is not None and store.run(found[0]) is not None:
            steps.setdefault(found[0], {})[float(found[1])] = checkpoint.name
    lines = []
    for name, points in steps.items():
        run, end = store.run(name), store.checkpoint(name)
        start = None
        if run is not None and end is not None and end in known and step_of(end) is None:
            points[float(run.step)] = end.name
            start = _start_of(end, known)
        if len(points) > 1 or start is not None:
            lines.append(_series(name, "run", "step", points, start))
    return lines
