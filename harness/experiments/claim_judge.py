"""Evaluate claims against the store: the checkpoints they refer to, and their rows."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from kdharness.harness import stats
from kdharness.harness.analysis.leaderboard import leaderboard
from kdharness.harness.analysis.metrics import is_lower_better
from kdharness.harness.analysis.scorebook import Group, groups_of, read_group
from kdharness.harness.experiments.budgets import measured_budgets
from kdharness.harness.experiments.claims import FRONTIERS, PREDICTION, ClaimResult, ClaimSpec
from kdharness.harness.experiments.expand import PlannedRun, outputs_of
from kdharness.harness.experiments.frontiers import on_frontier, without_seed
from kdharness.harness.experiments.partners import agree, partner
from kdharness.harness.stats.rows import Sums, sums_of_score, value_range
from kdharness.harness.store import Store
from kdharness.harness.types import Score

if TYPE_CHECKING:
    from kdharness.harness.stats import Effect

LEAST_CHECKPOINTS = 5
"""A correlation over fewer checkpoints says nothing."""


def judge_claims(
    store: Store, claims: Sequence[ClaimSpec], planned: Sequence[PlannedRun]
) -> list[ClaimResult]:
    """Evaluate every claim, once per combination of settings other than seeds.

    The correction is over all of them, finished or not, so that it does not grow on the way.
    """
    results = [
        replace(result, equal=measured_budgets(store, result, planned))
        for result in _results(store, claims, planned)
    ]
    raw = [
        None if r.effect is None or r.too_few else stats.two_way_p(r.effect, r.claim.threshold)
        for r in results
    ]
    corrected = stats.holm([1.0 if p is None else p for p in raw])
    return [
        result if p is None else replace(result, p_holm=corrected[index])
        for index, (result, p) in enumerate(zip(results, raw, strict=True))
    ]


def _results(
    store: Store, claims: Sequence[ClaimSpec], planned: Sequence[PlannedRun]
) -> list[ClaimResult]:
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
                note = _undefined(claim)
            else:
                note = f"{len(parts)} of {len(members)} seeds: {missing}" if missing else ""
            results.append(ClaimResult(claim, settings, effect, note))
    return results


def _undefined(claim: ClaimSpec) -> str:
    """Say why a claim whose scores are known has no effect."""
    if claim.metric:
        return "fewer than two questions answered by all of them"
    if claim.figure == PREDICTION:
        return "fewer than two questions, or a score that is the same for all checkpoints"
    return "the expert's own gain is not significant: gain is undefined"


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
    part_of = {None: _difference, PREDICTION: _predicted}.get(claim.figure, _drawn)
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
        return stats.drawn_effect(values, [part.draws for part in drawn], questions)
    differences = [part for part in parts if isinstance(part, _Difference)]
    pairs = [part.pair for part in differences]
    if is_lower_better((claim.metric or "").partition(":")[2]):
        pairs = [(second, first) for first, second in pairs]
    return stats.paired_effect(pairs, differences[-1].width)


def _difference(
    reader: _Reader, claim: ClaimSpec, run: PlannedRun, planned: Sequence[PlannedRun]
) -> _Difference:
    assert claim.metric is not None
    first = _checkpoint(run)
    second = _beside(claim.than, run, planned)
    ours, theirs = _common_rows(reader, (first, second), claim.metric)
    return _Difference((ours, theirs), reader.widths.get((first, claim.metric)))


def _drawn(
    reader: _Reader, claim: ClaimSpec, run: PlannedRun, planned: Sequence[PlannedRun]
) -> _Drawn:
    from kdharness.harness.stats.plane import AnsweredItems, Plane, draw_plane
    from kdharness.harness.stats.tradeoff import above_draws, above_line

    assert claim.figure is not None
    name = _checkpoint(run)
    reference = _beside(claim.reference, run, planned)
    expert = _beside(claim.expert, run, planned)
    curve = _all_beside(claim.curve, run, planned) if claim.curve else []
    frontier = (
        [_checkpoint(other) for other in on_frontier(claim, run, planned)] if claim.frontier else []
    )
    names = list(dict.fromkeys([reference, *curve, *frontier, expert, name]))
    axes = (_common_rows(reader, names, label) for label in (claim.general, claim.domain))
    answered = [AnsweredItems(n, *rows) for n, *rows in zip(names, *axes, strict=True)]
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
    at = names.index(name)
    counts = {"gain": drawn.domain_counts[at], "retention": drawn.general_counts[at]}
    questions = counts.get(claim.figure, drawn.questions(name))
    return _Drawn(value, draws, questions)


def _predicted(
    reader: _Reader, claim: ClaimSpec, run: PlannedRun, planned: Sequence[PlannedRun]
) -> _Drawn:
    """Correlate a score with what is lost on the general axis, over the checkpoints of one seed.

    The reference is the same for all of them, so the order of the losses is that of the scores.
    """
    assert claim.predictor is not None
    reference = _beside(claim.reference, run, planned)
    names = dict.fromkeys(_checkpoints_under(claim, run, planned))
    names.pop(reference, None)
    if len(names) < LEAST_CHECKPOINTS:
        raise LookupError(f"{len(names)} checkpoints: fewer than {LEAST_CHECKPOINTS}")
    predictors = _common_rows(reader, list(names), claim.predictor)
    outcomes = _common_rows(reader, list(names), claim.general)
    value, draws, questions = stats.rank_correlation(predictors, outcomes)
    if not is_lower_better(claim.general.partition(":")[2]):
        value, draws = -value, -draws
    return _Drawn(None if value != value else value, draws, questions)


def _checkpoints_under(
    claim: ClaimSpec, run: PlannedRun, planned: Sequence[PlannedRun]
) -> Iterator[str]:
    """Yield the checkpoints of a prediction's steps that share the settings of `run`."""
    for other in planned:
        if other.step in (claim.of, *claim.over) and agree(run, other, planned):
            yield from outputs_of(other)


def _checkpoint(run: PlannedRun) -> str:
    outputs = outputs_of(run)
    if len(outputs) != 1:
        raise LookupError(f"the step {run.step} makes {len(outputs)} checkpoints, not 1")
    return outputs[0]


def _all_beside(name: str | None, run: PlannedRun, planned: Sequence[PlannedRun]) -> list[str]:
    """Return the checkpoints of a step under the settings of `run`, or the model of that name."""
    name = name or ""
    if all(other.step != name for other in planned):
        return [name]
    return outputs_of(partner(name, run, planned))


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


def _common_rows(reader: _Reader, names: Sequence[str], label: str) -> list[Sums]:
    """Return the rows of all names under one revision and judge, that with the most questions."""
    tables = [reader.tables(name, label) for name in names]
    common = [key for key in tables[0] if all(key in table for table in tables)]
    if not common:
        raise LookupError(f"no common revision and judge for {label}: {', '.join(names)}")
    key = max(common, key=lambda k: sum(len(table[k]) for table in tables))
    return [table[key] for table in tables]
