"""What a training changed beside its domain: a profile of one reference and its descendants.

One general number hides what was lost. Each part is compared with the reference on the items that
both answered, with Holm's correction over all parts of a checkpoint. KL to the reference on domain
rows is said to predict the rest (RL's Razor, arXiv 2509.04259): a line through the checkpoints says
how well it does here.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from kdharness.harness import stats
from kdharness.harness.analysis.compare import NOT_SIGNIFICANT, PairedComparison, Side
from kdharness.harness.analysis.corrections import is_corrected
from kdharness.harness.analysis.metrics import is_headline, is_lower_better
from kdharness.harness.registry import LM_EVAL, TOOLS, headline_of, resolve
from kdharness.harness.stats.rows import (
    ALPHA,
    LEAST_FOR_VERDICT,
    Row,
    counted_once,
    mean_of,
    question_sums,
    value_range,
)
from kdharness.harness.store import Store
from kdharness.harness.types import Answer, Finish

INSTRUCTIONS, OPEN, KNOWLEDGE = "instruction following", "open answers", "knowledge"
BEHAVIOUR, GENERAL, CLOSENESS = "format and behaviour", "general text", "closeness"
PARTS = (INSTRUCTIONS, OPEN, KNOWLEDGE, GENERAL, BEHAVIOUR, CLOSENESS)
HOW = {
    INSTRUCTIONS: "eval --bench ifeval",
    OPEN: "eval --bench mt-bench,alpaca-eval --judge SPEC",
    KNOWLEDGE: "import lm-eval PATH --ckpt NAME",
    GENERAL: "eval --bench heldout",
    BEHAVIOUR: "eval --bench with generated answers, such as ifeval",
    CLOSENESS: "eval --bench heldout --teacher REFERENCE",
}
"""Part -> the command that fills it, for the reference and every checkpoint."""
HELDOUT, EXACT = "heldout", "exact"
_DISTANCES = ("_kl", "_agreement")
_OPEN_BENCHES = ("mt-bench", "alpaca-eval", "arena-hard")
_GENERATED = ("ifeval", *_OPEN_BENCHES)
BEHAVIOURS = {"length": "", "ended": "up", "refused": "", "empty": "down", "repeated": "down"}
"""Measure -> the direction that is better; empty where a change is neither."""
SCRIPT = "same_script"
FORGETTING_COLUMNS = (
    "part",
    "checkpoint",
    "bench",
    "metric",
    "reference",
    "value",
    "difference",
    "ci_low",
    "ci_high",
    "p_holm",
    "n",
    "change",
)


@dataclass(frozen=True)
class Change:
    """One figure of a checkpoint beside the reference's.

    Attributes:
        part: one of `PARTS`.
        reference: the reference's value; None for closeness, which is a distance from it.
        gap: the paired difference; for closeness the distance itself, with its interval.
        better: `up`, `down`, or empty where a change is neither good nor bad.
        p_holm: corrected over all figures of this checkpoint; None for closeness.
    """

    part: str
    checkpoint: str
    bench: str
    metric: str
    judge: str
    reference: float | None
    value: float
    gap: stats.Difference
    better: str = "up"
    p_holm: float | None = None

    @property
    def change(self) -> str:
        """`better`, `worse` or `changed` if interval and corrected p agree; empty for closeness."""
        low, high = self.gap.low, self.gap.high
        if self.p_holm is None:
            return ""
        if low is None or high is None or low <= 0 <= high:
            return NOT_SIGNIFICANT
        if self.p_holm >= ALPHA:
            return NOT_SIGNIFICANT
        if not self.better:
            return "changed"
        return "better" if (low > 0) == (self.better == "up") else "worse"

    def as_dict(self) -> dict[str, object]:
        """Return a row of `forgetting --format json`."""
        return {
            "part": self.part,
            "checkpoint": self.checkpoint,
            "bench": self.bench,
            "metric": self.metric,
            "judge": self.judge,
            "reference": self.reference,
            "value": self.value,
            "difference": None if self.part == CLOSENESS else self.gap.value,
            "ci_low": self.gap.low,
            "ci_high": self.gap.high,
            "p_holm": self.p_holm,
            "n": self.gap.n,
            "change": self.change,
        }


@dataclass(frozen=True)
class Prediction:
    """How well KL on domain rows predicts the change of one figure over the checkpoints."""

    part: str
    bench: str
    metric: str
    n: int
    line: stats.Line | None

    def as_dict(self) -> dict[str, object]:
        """Return a row of `forgetting --what prediction --format json`."""
        line = self.line
        return {
            "part": self.part,
            "bench": self.bench,
            "metric": self.metric,
            "n": self.n,
            "slope": line and line.slope,
            "ci_low": line and line.low,
            "ci_high": line and line.high,
            "r": line and line.r,
            "spearman": line and line.rank,
        }


@dataclass(frozen=True)
class Profile:
    """What changed, and what could not be seen.

    Attributes:
        changes: figures with at least `LEAST_FOR_VERDICT` shared items, by part.
        few: benchmark -> the checkpoints that have fewer, or none, in common with the reference.
        apart: benchmark -> the checkpoints that were measured on it with other settings than the
            reference, and are left out of it.
        missing: the parts without any figure.
        predictions: what KL on domain rows predicts of the changes.
    """

    changes: list[Change]
    few: dict[str, list[str]]
    apart: dict[str, list[str]]
    missing: list[str]
    predictions: list[Prediction]


def profile_of(
    store: Store,
    sides: Sequence[Side],
    compared: Iterable[PairedComparison],
    benches: Collection[str] = (),
) -> Profile:
    """Compare checkpoints with a reference, part by part.

    Args:
        store: where answers and judgments are.
        sides: the reference, then the others, with their judgments (`sides_of`).
        compared: their paired differences (`compare_sides`).
        benches: further benchmarks on which behaviour counts. A benchmark of the domain is no
            such one: there a training should change how answers look.
    """
    changes = [
        *_scores(compared),
        *_behaviours(store, sides, benches),
    ]
    enough = [change for change in changes if change.gap.n >= LEAST_FOR_VERDICT]
    apart = _apart(sides)
    seen = {(change.bench, change.checkpoint) for change in enough}
    few: dict[str, list[str]] = {}
    for bench in sorted({c.bench for c in changes}.union(*map(_reported, sides))):
        known = [*apart.get(bench, ()), *(name for on, name in seen if on == bench)]
        few[bench] = [side.name for side in sides[1:] if side.name not in known]
    changes = [*_corrected(enough), *_closeness(sides)]
    order = {part: index for index, part in enumerate(PARTS)}
    names = {side.name: index for index, side in enumerate(sides)}
    changes.sort(key=lambda c: (order[c.part], c.bench, c.metric, c.judge, names[c.checkpoint]))
    found = {change.part for change in changes}
    missing = [part for part in PARTS if part not in found]
    few = {bench: names for bench, names in few.items() if names}
    return Profile(changes, few, apart, missing, predictions(changes))


def _apart(sides: Sequence[Side]) -> dict[str, list[str]]:
    """Return benchmark -> the checkpoints that share no revision of it with the reference."""
    revisions = [
        {(bench, judge, revision) for bench, revision, judge in side.table} for side in sides
    ]
    reference = revisions[0]
    apart: dict[str, list[str]] = {}
    for side, mine in zip(sides[1:], revisions[1:], strict=True):
        both = {key[:2] for key in mine} & {key[:2] for key in reference}
        shared = {key[:2] for key in mine & reference}
        for bench in sorted({bench for bench, _ in both - shared} - {bench for bench, _ in shared}):
            apart.setdefault(bench, []).append(side.name)
    return dict(sorted(apart.items()))


def _reported(side: Side) -> set[str]:
    """Return the imported tasks, whose figures may be all that is known."""
    return {bench for bench, _, _ in side.table if bench.startswith(LM_EVAL)}


def part_of(bench: str, metric: str) -> str | None:
    """Return the part that a score belongs to; None for those of the domain, and details."""
    # A corrected score says the same thing as its raw one.
    if not is_headline(metric) or metric == "order_flip_rate" or is_corrected(metric):
        return None
    if bench == "ifeval":
        return INSTRUCTIONS if metric in (headline_of(bench), "inst_strict") else None
    if bench.startswith(LM_EVAL):
        return KNOWLEDGE
    if bench.startswith(_OPEN_BENCHES):
        return None if metric.startswith(("turn_", "expected_turn_", "discrete")) else OPEN
    if bench == HELDOUT and metric.endswith("_loss") and metric != "domain_loss":
        return GENERAL
    return None


def _scores(compared: Iterable[PairedComparison]) -> list[Change]:
    changes = []
    for pair in compared:
        part = part_of(pair.bench, pair.metric)
        if part is not None:
            better = "down" if is_lower_better(pair.metric) else "up"
            changes.append(
                Change(
                    part,
                    pair.other,
                    pair.bench,
                    pair.metric,
                    pair.judge,
                    pair.base_value,
                    pair.other_value,
                    pair.gap,
                    better,
                )
            )
    return changes


# ---------------------------------------------------------------- behaviour


def _behaviours(store: Store, sides: Sequence[Side], benches: Collection[str]) -> list[Change]:
    behaviour_of: Callable[[Answer], Any] = resolve(TOOLS, "behaviour", "tool")
    reference, *others = sides
    ours = _newest(store.answers(reference.checkpoint.id))
    changes = []
    for other in others:
        theirs = _newest(store.answers(other.checkpoint.id))
        shared = [
            key
            for key in ours
            if key in theirs and (key[0].startswith(_GENERATED) or key[0] in benches)
        ]
        for bench in sorted({key[0] for key in shared}):
            pairs = {
                key: (behaviour_of(ours[key]), behaviour_of(theirs[key]))
                for key in shared
                if key[0] == bench
            }
            for measure in (*BEHAVIOURS, SCRIPT):
                before, after = (_sums(pairs, measure, side) for side in (0, 1))
                bounds = None if measure == "length" else (0.0, 1.0)
                gap = stats.paired_difference(after, before, bounds=bounds)
                if gap is not None:
                    changes.append(
                        Change(
                            BEHAVIOUR,
                            other.name,
                            bench,
                            measure,
                            EXACT,
                            mean_of(before),
                            mean_of(after),
                            gap,
                            BEHAVIOURS.get(measure, "up"),
                        )
                    )
    return changes


AnswerKey = tuple[str, str, int, str]
"""(benchmark, item, turn, settings)"""


def _newest(answers: Iterable[Answer]) -> dict[AnswerKey, Answer]:
    """Return the newest answer to each item under each setting; failed calls are no answers."""
    return {
        (answer.bench, answer.item, answer.turn, answer.settings): answer
        for answer in answers
        if answer.finish is not Finish.ERROR
    }


def _sums(
    pairs: Mapping[AnswerKey, tuple[Any, Any]], measure: str, side: int
) -> dict[str, tuple[float, float]]:
    """Return item -> (sum, weight) of a measure of one side; two turns of an item are one unit."""
    table: dict[str, tuple[float, float]] = {}
    for (_, item, _, _), pair in pairs.items():
        if measure == SCRIPT:
            before, after = (one.script for one in pair)
            if not before or not after:
                continue
            value = float(side == 0 or before == after)
        else:
            value = float(getattr(pair[side], measure))
        total, weight = table.get(item, (0.0, 0.0))
        table[item] = (total + value, weight + 1)
    return table


def _corrected(changes: Sequence[Change]) -> list[Change]:
    """Apply Holm's correction over all figures of a checkpoint: one question, what was lost."""
    corrected = list(changes)
    for name in dict.fromkeys(change.checkpoint for change in changes):
        mine = [index for index, change in enumerate(changes) if change.checkpoint == name]
        for index, p in zip(mine, stats.holm([changes[i].gap.p for i in mine]), strict=True):
            corrected[index] = replace(changes[index], p_holm=p)
    return corrected


# ---------------------------------------------------------------- closeness


def _closeness(sides: Sequence[Side]) -> list[Change]:
    """Return KL to the reference and agreement with it, where the reference was the teacher."""
    reference, *others = sides
    known = {reference.checkpoint.id, reference.name}
    changes = []
    for side in others:
        found: dict[str, list[Row]] = {}
        for (bench, _, judge), rows in side.table.items():
            mine = [row for row in counted_once(rows) if row.baseline in known]
            for row in mine if (bench, judge) == (HELDOUT, EXACT) else ():
                if row.value is not None and row.metric.endswith(_DISTANCES):
                    found.setdefault(row.metric, []).append(row)
        for metric, rows in sorted(found.items()):
            sums = question_sums(rows, metric)
            interval = stats.ratio_interval(
                [total for total, _ in sums.values()],
                [weight for _, weight in sums.values()],
                bounds=value_range(rows, metric),
            )
            if interval is None:
                continue
            value = interval.value
            gap = stats.Difference(value, interval.low, interval.high, 1.0, interval.n, None)
            better = "down" if is_lower_better(metric) else "up"
            changes.append(
                Change(CLOSENESS, side.name, HELDOUT, metric, EXACT, None, value, gap, better)
            )
    return changes


def predictions(changes: Sequence[Change], by: str = "domain_kl") -> list[Prediction]:
    """Fit each figure's change against KL to the reference on domain rows, over checkpoints."""
    distance = {c.checkpoint: c.value for c in changes if (c.part, c.metric) == (CLOSENESS, by)}
    figures: dict[tuple[str, str, str, str], dict[str, float]] = {}
    for change in changes:
        if change.part != CLOSENESS and change.checkpoint in distance:
            key = (change.part, change.bench, change.metric, change.judge)
            figures.setdefault(key, {})[change.checkpoint] = change.gap.value
    return [
        Prediction(
            part,
            bench,
            metric,
            len(values),
            stats.fit_line([distance[name] for name in values], list(values.values())),
        )
        for (part, bench, metric, _), values in figures.items()
    ]
