"""The parts of the replication: what each asks and claims, what it takes, what is done of it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TypedDict

from kdharness.harness.errors import RunError
from kdharness.harness.experiments.expand import (
    PlannedRun,
    SweepConfig,
    find_experiment,
    load_sweep,
    outputs_of,
)
from kdharness.harness.experiments.modelled import checkpoint_bytes, own_models, total_seconds
from kdharness.harness.experiments.run import state_of
from kdharness.harness.store import Store
from kdharness.harness.types import Method, RunStatus

FIRST = ("replication",)
SECOND = (
    "kd-sft",
    "attention",
    "frontier",
    "alternatives",
    "on-policy",
    "no-general",
    "forgetting",
    "recipe",
    "recipe-combined",
    "recipe-test",
    "coder-pair",
)
PARTS = (*FIRST, *SECOND)
"""The first edition, then the parts of the second in the order in which they are best run."""
PART_COLUMNS = (
    "part",
    "edition",
    "question",
    "claims",
    "runs",
    "done",
    "shared",
    "minutes",
    "minutes_done",
    "gigabytes",
    "note",
)


class PartRow(TypedDict):
    """A row of `replicate --list --format json`."""

    part: str
    edition: int
    question: str
    claims: list[str]
    runs: int
    done: int
    shared: list[str]
    minutes: float | None
    minutes_done: float
    gigabytes: float | None
    note: str


@dataclass(frozen=True)
class Part:
    """One part of the replication, and what is done of it in a home.

    Attributes:
        name: what `kdharness replicate` takes.
        sweep: its experiment file.
        planned: its runs.
        done: the names of those that have finished.
        seconds_done: what those took, as measured.
        shared: the other parts that have trainings in common with it.
        note: why a run cannot be taken over, if one cannot.
    """

    name: str
    sweep: SweepConfig
    planned: tuple[PlannedRun, ...]
    done: frozenset[str]
    seconds_done: float
    shared: tuple[str, ...]
    note: str = ""

    @property
    def seconds_left(self) -> float | None:
        """Modelled seconds of the other runs; None for models whose speed is not known."""
        return total_seconds(self.planned, self.done)

    @property
    def gigabytes(self) -> float | None:
        """What its checkpoints take on disk; None for models whose size is not known."""
        models = own_models(self.planned)
        sizes = [checkpoint_bytes(run.config, models) for run in self.planned]
        known = [
            size * len(outputs_of(run))
            for size, run in zip(sizes, self.planned, strict=True)
            if size is not None
        ]
        return sum(known) / 1e9 if len(known) == len(sizes) else None

    def as_dict(self) -> PartRow:
        """Return a row of `replicate --list --format json`."""
        left, size = self.seconds_left, self.gigabytes
        return {
            "part": self.name,
            "edition": 1 if self.name in FIRST else 2,
            "question": " ".join(self.sweep.question.split()),
            "claims": [claim.text for claim in self.sweep.claims],
            "runs": len(self.planned),
            "done": len(self.done),
            "shared": list(self.shared),
            "minutes": None if left is None else round(left / 60, 1),
            "minutes_done": round(self.seconds_done / 60, 1),
            "gigabytes": None if size is None else round(size, 1),
            "note": self.note,
        }


def read_parts(store: Store) -> list[Part]:
    """Return every part of the replication, with what is done of it."""
    loaded = {name: load_sweep(find_experiment(name)) for name in PARTS}
    trained = {
        name: {r.name for r in planned if r.config.method not in (Method.EVAL, Method.MERGE)}
        for name, (_, planned) in loaded.items()
    }
    return [
        _part(store, name, sweep, planned, _sharing(name, trained))
        for name, (sweep, planned) in loaded.items()
    ]


def _sharing(name: str, trained: dict[str, set[str]]) -> tuple[str, ...]:
    return tuple(other for other in trained if other != name and trained[other] & trained[name])


def _part(
    store: Store,
    name: str,
    sweep: SweepConfig,
    planned: Sequence[PlannedRun],
    shared: tuple[str, ...],
) -> Part:
    done: set[str] = set()
    seconds, note = 0.0, ""
    for one in planned:
        try:
            state = state_of(store, one)
        except RunError as error:
            note = note or error.message
            continue
        run = store.run(one.name)
        if state == RunStatus.FINISHED.value and run is not None:
            done.add(one.name)
            if run.started is not None and run.finished is not None:
                seconds += run.finished - run.started
    return Part(name, sweep, tuple(planned), frozenset(done), seconds, shared, note)


def part_lines(part: Part) -> list[str]:
    """Format a part as text: what it takes, its question, its claims."""
    row = part.as_dict()
    lines = [
        f"{part.name}: {row['runs']} runs, {row['done']} done here; {_time(row)}; {_size(row)}",
        f"  {row['question']}",
        *(f"  {n}. {_claim_text(part, n)}" for n in range(1, len(row["claims"]) + 1)),
    ]
    if part.shared:
        lines.append(f"  shares trainings with {', '.join(part.shared)}")
    if row["note"]:
        lines.append(f"  {row['note']}")
    return lines


def _claim_text(part: Part, number: int) -> str:
    claim = part.sweep.claims[number - 1]
    named = not claim.equal or f"at equal {claim.equal[0]}" in claim.text
    return claim.text if named else f"{claim.text} (at equal {', '.join(claim.equal)})"


def _time(row: PartRow) -> str:
    done = f"{row['minutes_done']:.0f} min measured" if row["done"] else ""
    if row["runs"] == row["done"]:
        return done
    left = row["minutes"]
    model = "no time estimate" if left is None else f"about {left:.0f} min"
    more = " more" if done and left is not None else ""
    where = " on 2 cores (modelled)" if left is not None else ""
    return ", ".join(filter(None, (done, f"{model}{more}{where}")))


def _size(row: PartRow) -> str:
    return "no size estimate" if row["gigabytes"] is None else f"{row['gigabytes']:.0f} GB"
