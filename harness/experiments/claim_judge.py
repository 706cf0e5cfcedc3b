"""Evaluate claims against the store: the checkpoints they refer to, and their rows."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from kdharness.harness.analysis.leaderboard import leaderboard
from kdharness.harness.analysis.metrics import is_lower_better
from kdharness.harness.analysis.scorebook import Group, groups_of, read_group
from kdharness.harness.experiments.claims import (
    FRONTIERS,
    ClaimResult,
    ClaimSpec,
    Effect,
    Sums,
    drawn_effect,
    paired_effect,
)
from kdharness.harness.experiments.expand import PlannedRun, outputs_of
from kdharness.harness.experiments.frontiers import frontier_axis, without_seed
from kdharness.harness.stats.rows import sums_of_score, value_range
from kdharness.harness.store import Store
from kdharness.harness.types import Score


def judge_claims(
    store: Store, claims: Sequence[ClaimSpec], planned: Sequence[PlannedRun]
) -> list[ClaimResult]:
    """Evaluate every claim, once per combination of settings other than seeds."""
    reader = _Reader(store)
    results: list[ClaimResult] = []
    for claim in claims:
        groups: dict[str, list[PlannedRun]] = {}
        for run in planned:
            if run.step == claim.of:
                groups.setdefault(repr(without_seed(run.settings)), []).append(run)
        for members in groups.values():
            settings = without_seed(members[0].settings)
            parts, missing = _parts(reader, claim, members, planned)
            if not parts:
                results.append(ClaimResult(claim, settings, None, missing))
                continue
            effect = _effect(claim, parts)
            if effect is None:
                note = (
                    "fewer than two questions answered by all of them"
                    if claim.metric
                    else "the expert's own gain is not significant: gain is undefined"
                )
            else:
                note = f"{len(parts)} of {len(members)} seeds: {missing}" if missing else ""
            results.append(ClaimResult(claim, settings, effect, note))
    return results


@dataclass(frozen=True)
class _Difference:
    """One seed of a claim about a metric: the rows of both, and the metric's range if bounded."""

    pair: tuple[Sums, Sums]
    width: float | None


@dataclass(frozen=True)
class _Drawn:
    """One seed of a claim about the trade-off; `value` is None where gain is undefined."""

    value: float | None
    draws: Any = None
    questions: int = 0


def _parts(
    reader: _Reader, claim: ClaimSpec, members: Sequence[PlannedRun], planned: Sequence[PlannedRun]
) -> tuple[list[_Difference] | list[_Drawn], str]:
    """Return a part per seed that has all scores, and what is missing for another one."""
    part_of = _difference if claim.metric is not None else _drawn
    parts: list[Any] = []
    missing = ""
    for run in members:
        try:
            parts.append(part_of(reader, claim, run, planned))
        except LookupError as error:
            missing = str(error.args[0])
    return parts, missing


def _effect(claim: ClaimSpec, parts: Sequence[_Difference] | Sequence[_Drawn]) -> Effect | None:
    """Combine the seeds."""
    drawn = [part for part in parts if isinstance(part, _Drawn)]
    if drawn:
        values = [part.value for part in drawn if part.value is not None]
        if len(values) < len(drawn):
            return None
        questions = min(part.questions for part in drawn)
        return drawn_effect(values, [part.draws for part in drawn], questions)
    differences = [part for part in parts if isinstance(part, _Difference)]
    pairs = [part.pair for part in differences]
    if is_lower_better((claim.metric or "").partition(":")[2]):
        pairs = [(second, first) for first, second in pairs]
    return paired_effect(pairs, differences[-1].width)


def _difference(
    reader: _Reader, claim: ClaimSpec, run: PlannedRun, planned: Sequence[PlannedRun]
) -> _Difference:
    assert claim.metric is not None
    first = _checkpoint(run)
    pair = _shared_rows(reader, first, _beside(claim.than, run, planned), claim.metric)
    return _Difference(pair, reader.widths.get((first, claim.metric)))


def _drawn(
    reader: _Reader, claim: ClaimSpec, run: PlannedRun, planned: Sequence[PlannedRun]
) -> _Drawn:
    from kdharness.harness.stats.tradeoff import (
        AnsweredItems,
        Plane,
        above_draws,
        above_line,
        draw_plane,
    )

    assert claim.figure is not None
    name = _checkpoint(run)
    reference = _beside(claim.reference, run, planned)
    expert = _beside(claim.expert, run, planned)
    curve = _all_beside(claim.curve, run, planned) if claim.curve else []
    frontier = _frontier(claim.frontier, run, planned) if claim.frontier else []
    names = list(dict.fromkeys([reference, *curve, *frontier, expert, name]))
    answered = [
        AnsweredItems(n, _rows(reader, n, claim.general), _rows(reader, n, claim.domain))
        for n in names
    ]
    plane = Plane(
        reference,
        expert,
        is_lower_better(claim.general.partition(":")[2]),
        is_lower_better(claim.domain.partition(":")[2]),
        tuple(curve),
    )
    drawn = draw_plane(answered, plane)
    if claim.figure != "retention" and not drawn.gain_known:
        return _Drawn(None)
    if claim.figure == "above_curve":
        value, draws = above_draws(drawn, plane)[name]
    elif claim.figure in FRONTIERS:
        line = list(dict.fromkeys([reference, *frontier]))
        value, draws = above_line(drawn, name, line, kept=claim.figure == FRONTIERS[1])
    else:
        index = names.index(name)
        value = float(getattr(drawn, claim.figure)[index])
        draws = getattr(drawn, f"{claim.figure}_draws")[:, index]
    counts = {"gain": drawn.n_domain, "retention": drawn.n_general}
    questions = counts.get(claim.figure, min(drawn.n_domain, drawn.n_general))
    return _Drawn(value, draws, questions)


def _checkpoint(run: PlannedRun) -> str:
    outputs = outputs_of(run)
    if len(outputs) != 1:
        raise LookupError(f"the step {run.step} makes {len(outputs)} checkpoints, not 1")
    return outputs[0]


def _all_beside(name: str | None, run: PlannedRun, planned: Sequence[PlannedRun]) -> list[str]:
    """Return the checkpoints of a step under the settings of `run`, or the model of that name."""
    steps = [other for other in planned if other.step == name]
    if not steps:
        return [name or ""]
    for other in steps:
        shared = set(other.settings) & set(run.settings)
        if all(other.settings[key] == run.settings[key] for key in shared):
            return outputs_of(other)
    raise LookupError(f"no run of {name} has the settings of {run.name}")


def _frontier(step: str, run: PlannedRun, planned: Sequence[PlannedRun]) -> list[str]:
    """Return the checkpoints of a step along its axis, under the other settings of `run`."""
    axis = frontier_axis(step, planned)
    members = [
        other
        for other in planned
        if other.step == step
        and axis in other.settings
        and all(run.settings.get(k, v) == v for k, v in other.settings.items() if k != axis)
    ]
    members.sort(key=lambda other: float(other.settings[axis]))
    return [_checkpoint(other) for other in members]


def _beside(name: str | None, run: PlannedRun, planned: Sequence[PlannedRun]) -> str:
    outputs = _all_beside(name, run, planned)
    if len(outputs) != 1:
        raise LookupError(f"the step {name} makes {len(outputs)} checkpoints, not 1")
    return outputs[0]


class _Reader:
    """Rows by question of checkpoints' scores, each read once."""

    def __init__(self, store: Store) -> None:
        self.store = store
        self.known: dict[tuple[str, str], dict[tuple[str, str], Sums]] = {}
        self.widths: dict[tuple[str, str], float] = {}
        self._known_scores: dict[str, tuple[list[Score], list[Group]]] = {}

    def tables(self, name: str, label: str) -> dict[tuple[str, str], Sums]:
        """Map (revision, judge) to the rows by question of one checkpoint's score.

        Raises:
            LookupError: there are none; the message says why.
        """
        if (name, label) not in self.known:
            self.known[name, label] = self._read(name, label)
        return self.known[name, label]

    def _scored(self, checkpoint: str) -> tuple[list[Score], list[Group]]:
        """Return the scores and groups of a checkpoint, computed once."""
        if checkpoint not in self._known_scores:
            self._known_scores[checkpoint] = (
                leaderboard(self.store, None, checkpoints=[checkpoint], panels=False),
                groups_of(self.store, [checkpoint]),
            )
        return self._known_scores[checkpoint]

    def _read(self, name: str, label: str) -> dict[tuple[str, str], Sums]:
        """Read the rows whose mean is the leaderboard score.

        Claims about scores that are not a mean over questions cannot be tested.
        """
        bench, _, metric = label.partition(":")
        checkpoint = self.store.checkpoint(name)
        tables: dict[tuple[str, str], Sums] = {}
        if checkpoint is None:
            raise LookupError(f"{name} does not exist yet: finish the experiment")
        scores, all_groups = self._scored(checkpoint.id)
        groups = [group for group in all_groups if group.bench == bench]
        for score in scores:
            if (score.bench, score.metric) != (bench, metric) or score.value is None:
                continue
            for group in groups:
                if group.judge != score.judge:
                    continue
                rows = read_group(self.store, group)
                sums = sums_of_score(rows, metric, score.value)
                if sums is None:
                    continue
                tables[group.revision, group.judge] = sums
                limits = value_range(rows, metric)
                if limits is not None:
                    self.widths[name, label] = limits[1] - limits[0]
        if not tables:
            raise LookupError(f"{name} has no rows whose mean is {label}")
        return tables


def _rows(reader: _Reader, name: str, label: str) -> Sums:
    """Return the rows of the revision and judge with the most questions."""
    return max(reader.tables(name, label).values(), key=len)


def _shared_rows(reader: _Reader, first: str, second: str, label: str) -> tuple[Sums, Sums]:
    """Return the rows of both under the same revision and judge."""
    ours, theirs = reader.tables(first, label), reader.tables(second, label)
    common = [key for key in ours if key in theirs]
    if not common:
        raise LookupError(f"{first} and {second} have no common revision and judge for {label}")
    key = max(common, key=lambda k: len(ours[k]))
    return ours[key], theirs[key]
