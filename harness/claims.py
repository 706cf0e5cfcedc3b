"""Claims that an experiment states beforehand, and what its figures make of them.

    claims:
      - text: KD is closer to its teacher than SFT at equal tokens
        metric: heldout:general_kl
        of: kd
        than: sft
      - text: DAE stands above the WiSE-FT curve
        figure: above_curve
        of: dae
        reference: start
        expert: expert

A claim's effect is turned so that more is better and held against a threshold that stands in the
file: it *holds* where the whole 95 % interval is above, *does not hold* where the whole interval
is below, and else nobody *can tell*. Two sources of chance are in the interval together: other
questions, and other seeds (see `two_way_interval`).
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, model_validator

if TYPE_CHECKING:
    from kdharness.harness.store import Store
    from kdharness.harness.sweep import Planned

Sums = Mapping[str, tuple[float, float]]
"""Question -> (sum of values, sum of weights)."""
HOLDS, FAILS, UNSURE = "holds", "does not hold", "can't tell"
COLUMNS = (
    "claim", "verdict", "effect", "ci_low", "ci_high", "threshold", "seeds", "questions",
    "settings", "figure", "note",
)  # fmt: skip


class ClaimSpec(BaseModel):
    """One claim of an experiment."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    text: str = Field(..., min_length=1, title="Text", description="The claim as a sentence.")
    of: str = Field(..., title="Of", description="The step whose checkpoint the claim is about.")
    than: str | None = Field(None, title="Than", description=(
        "The step or model it is compared with (with `metric`)."))
    metric: str | None = Field(None, pattern=r"^[^:]+:.+$", title="Metric", description=(
        "BENCH:METRIC to compare in; the effect is how much better `of` is than `than`."))
    figure: Literal["gain", "retention", "above_curve"] | None = Field(
        None, title="Figure", description="A trade-off figure instead of a metric.")
    reference: str | None = Field(None, title="Reference", description="For a trade-off figure.")
    expert: str | None = Field(None, title="Expert", description="For a trade-off figure.")
    curve: str | None = Field(None, title="Curve", description=(
        "The step that merges reference and expert (for above_curve)."))
    general: str = Field("heldout:other_writer_loss", title="General", description=(
        "The trade-off's general axis, BENCH:METRIC."))
    domain: str = Field("shop:score", title="Domain", description=(
        "The trade-off's domain axis, BENCH:METRIC."))
    threshold: float = Field(0.0, title="Threshold", description=(
        "What the effect must be above, in its own unit."))

    @model_validator(mode="after")
    def _whole(self) -> Self:
        if (self.metric is None) == (self.figure is None):
            raise ValueError("a claim has a metric or a figure, one of them")
        if self.metric is not None and self.than is None:
            raise ValueError("a metric is compared with something: name it as `than`")
        if self.figure is not None and (self.reference is None or self.expert is None):
            raise ValueError("a trade-off figure needs a reference and an expert")
        if self.figure == "above_curve" and self.curve is None:
            raise ValueError("above_curve needs the step that makes the curve")
        return self



@dataclass(frozen=True)
class Effect:
    """A claim's effect with its interval, more being better; `per_seed` in the seeds' order."""

    value: float
    low: float
    high: float
    questions: int
    per_seed: tuple[float, ...]


@dataclass(frozen=True)
class Finding:
    """What became of one claim under one choice of the settings that are no seeds."""

    claim: ClaimSpec
    settings: Mapping[str, Any]
    effect: Effect | None
    note: str = ""

    @property
    def verdict(self) -> str:
        """`holds`, `does not hold` or `can't tell`."""
        if self.effect is None:
            return UNSURE
        if self.effect.low > self.claim.threshold:
            return HOLDS
        return FAILS if self.effect.high < self.claim.threshold else UNSURE

    def as_dict(self) -> dict[str, Any]:
        """A row of `replicate --format json`."""
        effect = self.effect
        compared = f"{self.claim.of} against {self.claim.than}" if self.claim.than else ""
        return {
            "claim": self.claim.text,
            "verdict": self.verdict,
            "effect": effect.value if effect else None,
            "ci_low": effect.low if effect else None,
            "ci_high": effect.high if effect else None,
            "threshold": self.claim.threshold,
            "seeds": len(effect.per_seed) if effect else 0,
            "questions": effect.questions if effect else 0,
            "settings": dict(self.settings),
            "figure": " ".join(filter(None, (self.claim.metric or self.claim.figure, compared))),
            "per_seed": list(effect.per_seed) if effect else [],
            "note": self.note,
        }


# ---------------------------------------------------------------- statistics


def two_way_interval(
    per_seed: Sequence[float], question_variance: float, questions: int
) -> tuple[float, float]:
    """The 95 % interval of a mean over seeds, were both seeds and questions drawn anew.

    Each source has its Student interval; their half-widths are added as squares (Howe, JASA
    69(347), 1974). What is left of a cell beside its seed and its question is in both, so that
    the interval errs to the wide side.

    Args:
        per_seed: the effect under each seed. A single one says nothing of the seeds: then the
            interval is over questions alone.
        question_variance: the variance of the mean over seeds, were other questions asked.
        questions: how many there are.
    """
    from kdharness.harness.scoring import LEVEL, student_quantile

    seeds = len(per_seed)
    mean = math.fsum(per_seed) / seeds
    if questions < 2:
        return -math.inf, math.inf
    squares = student_quantile((1 + LEVEL) / 2, questions - 1) ** 2 * question_variance
    if seeds > 1:
        of_seeds = math.fsum((x - mean) ** 2 for x in per_seed) / (seeds - 1) / seeds
        squares += student_quantile((1 + LEVEL) / 2, seeds - 1) ** 2 * of_seeds
    reach = math.sqrt(squares)
    return mean - reach, mean + reach


def paired_effect(pairs: Sequence[tuple[Sums, Sums]]) -> Effect | None:
    """How much more the first of each pair has than the second; one pair a seed.

    Over the questions that all of them answered; None with fewer than two of these.
    """
    import numpy as np

    sides = [sums for pair in pairs for sums in pair]
    shared = sorted(q for q in sides[0] if all(s.get(q, (0, 0))[1] > 0 for s in sides))
    n = len(shared)
    if n < 2:
        return None
    table = np.array([_shares(first, shared) - _shares(second, shared) for first, second in pairs])
    # A question's share of the difference, times n: the mean over questions is the difference.
    per_seed = tuple(float(x) for x in table.mean(axis=1))
    variance = float(table.mean(axis=0).var(ddof=1)) / n
    low, high = two_way_interval(per_seed, variance, n)
    return Effect(math.fsum(per_seed) / len(per_seed), low, high, n, per_seed)


def _shares(sums: Sums, questions: Sequence[str]) -> Any:
    import numpy as np

    cells = np.array([sums[q] for q in questions], dtype=np.float64)
    # Linearised ratio: with weights that differ between questions, each question moves the mean
    # by how far its value is from what its weight would give.
    ratio = cells[:, 0].sum() / cells[:, 1].sum()
    mean_weight = cells[:, 1].mean()
    return ratio + (cells[:, 0] - ratio * cells[:, 1]) / mean_weight


def drawn_effect(values: Sequence[float], draws: Sequence[Any], questions: int) -> Effect | None:
    """A figure's mean over seeds from bootstrap draws (the same questions for every seed)."""
    import numpy as np

    if not values or not all(map(math.isfinite, values)):
        return None
    mean = np.mean(np.stack(list(draws)), axis=0)
    finite = mean[np.isfinite(mean)]
    if len(finite) < len(mean) // 2 or questions < 2:
        return None
    # A bootstrap of n questions is too narrow by sqrt((n − 1) / n).
    variance = float(finite.var(ddof=1)) * questions / (questions - 1)
    low, high = two_way_interval(values, variance, questions)
    return Effect(math.fsum(values) / len(values), low, high, questions, tuple(values))


# ---------------------------------------------------------------- from the store


def judge_claims(
    store: Store, claims: Sequence[ClaimSpec], planned: Sequence[Planned]
) -> list[Finding]:
    """Every claim, once for each choice of settings that are no seeds."""
    found: list[Finding] = []
    for claim in claims:
        about = [one for one in planned if one.step == claim.of]
        groups: dict[str, list[Planned]] = {}
        for one in about:
            groups.setdefault(repr(_without_seed(one.settings)), []).append(one)
        for members in groups.values():
            settings = _without_seed(members[0].settings)
            try:
                effect, note = _effect(store, claim, members, planned), ""
            except LookupError as missing:
                effect, note = None, str(missing.args[0])
            if effect is None and not note:
                note = ("fewer than two questions that all of them answered" if claim.metric else
                        "the expert's own gain is not told apart from 0: no share of it can be")
            found.append(Finding(claim, settings, effect, note))
    return found


def _without_seed(settings: Mapping[str, Any]) -> dict[str, Any]:
    return {key: value for key, value in settings.items() if key.rsplit(".", 1)[-1] != "seed"}


def _effect(
    store: Store, claim: ClaimSpec, members: Sequence[Planned], planned: Sequence[Planned]
) -> Effect | None:
    if claim.metric is None:
        return _trade_off_effect(store, claim, members, planned)
    from kdharness.harness.leaderboard import is_lower_better

    pairs = []
    for one in members:
        first = _checkpoint(one)
        second = _beside(claim.than, one, planned)
        pairs.append(_shared_rows(store, first, second, claim.metric))
    if is_lower_better(claim.metric.partition(":")[2]):
        pairs = [(second, first) for first, second in pairs]
    return paired_effect(pairs)


def _trade_off_effect(
    store: Store, claim: ClaimSpec, members: Sequence[Planned], planned: Sequence[Planned]
) -> Effect | None:
    from kdharness.harness.leaderboard import is_lower_better
    from kdharness.harness.tradeoff_stats import Answered, Plane, above_draws, draw_plane

    assert claim.figure is not None
    values, draws, questions = [], [], 10**9
    for one in members:
        name = _checkpoint(one)
        reference = _beside(claim.reference, one, planned)
        expert = _beside(claim.expert, one, planned)
        curve = _all_beside(claim.curve, one, planned) if claim.curve else []
        names = list(dict.fromkeys([reference, *curve, expert, name]))
        answered = [
            Answered(n, _rows(store, n, claim.general), _rows(store, n, claim.domain))
            for n in names
        ]
        plane = Plane(
            reference, expert, is_lower_better(claim.general.partition(":")[2]),
            is_lower_better(claim.domain.partition(":")[2]), tuple(curve),
        )  # fmt: skip
        drawn = draw_plane(answered, plane)
        if claim.figure != "retention" and not drawn.gain_known:
            return None
        if claim.figure == "above_curve":
            value, resampled = above_draws(drawn, plane)[name]
        else:
            place = names.index(name)
            value = float(getattr(drawn, claim.figure)[place])
            resampled = getattr(drawn, f"{claim.figure}_draws")[:, place]
        values.append(value)
        draws.append(resampled)
        counts = {"gain": drawn.n_domain, "retention": drawn.n_general}
        questions = min(questions, counts.get(claim.figure, min(drawn.n_domain, drawn.n_general)))
    return drawn_effect(values, draws, questions)


def _checkpoint(one: Planned) -> str:
    from kdharness.harness.sweep import outputs_of

    made = outputs_of(one)
    if len(made) != 1:
        raise LookupError(f"the step {one.step} makes {len(made)} checkpoints, not one")
    return made[0]


def _all_beside(name: str | None, one: Planned, planned: Sequence[Planned]) -> list[str]:
    """The checkpoints of a step under the settings of `one`, or the model of that name."""
    from kdharness.harness.sweep import outputs_of

    steps = [other for other in planned if other.step == name]
    if not steps:
        return [name or ""]
    for other in steps:
        shared = set(other.settings) & set(one.settings)
        if all(other.settings[key] == one.settings[key] for key in shared):
            return outputs_of(other)
    raise LookupError(f"no run of {name} has the settings of {one.name}")


def _beside(name: str | None, one: Planned, planned: Sequence[Planned]) -> str:
    made = _all_beside(name, one, planned)
    if len(made) != 1:
        raise LookupError(f"the step {name} makes {len(made)} checkpoints, not one")
    return made[0]


def _tables(store: Store, name: str, label: str) -> dict[tuple[str, str], Sums]:
    """(revision, judge) -> rows by question of one checkpoint's figure.

    Rows count only where their mean is the figure of the leaderboard: what is no mean over
    questions cannot be claimed about.
    """
    from kdharness.harness.leaderboard import Group, leaderboard, read_group
    from kdharness.harness.score_rows import question_sums

    bench, _, metric = label.partition(":")
    checkpoint = store.checkpoint(name)
    found: dict[tuple[str, str], Sums] = {}
    if checkpoint is None:
        raise LookupError(f"{name} is not there: run the experiment to its end")
    groups = [Group(**raw) for raw in store.judgment_groups()]
    for score in leaderboard(store, None, checkpoints=[checkpoint.id], panels=False):
        if (score.bench, score.metric) != (bench, metric) or score.value is None:
            continue
        for group in groups:
            if (group.checkpoint, group.bench, group.judge) != (checkpoint.id, bench, score.judge):
                continue
            sums = question_sums(read_group(store, group), metric)
            weight = math.fsum(w for _, w in sums.values())
            mean = math.fsum(v for v, _ in sums.values()) / weight if weight else math.nan
            if math.isclose(mean, score.value, rel_tol=1e-6, abs_tol=1e-6):
                found[group.revision, group.judge] = sums
    if not found:
        raise LookupError(f"{name} has no rows whose mean is {label}")
    return found


def _rows(store: Store, name: str, label: str) -> Sums:
    """Of several revisions or judges, the one with most questions."""
    return max(_tables(store, name, label).values(), key=len)


def _shared_rows(store: Store, first: str, second: str, label: str) -> tuple[Sums, Sums]:
    """Rows of both under the same revision and judge."""
    ours, theirs = _tables(store, first, label), _tables(store, second, label)
    both = [key for key in ours if key in theirs]
    if not both:
        raise LookupError(f"{first} and {second} were not judged alike on {label}")
    key = max(both, key=lambda k: len(ours[k]))
    return ours[key], theirs[key]


def finding_lines(findings: Sequence[Finding]) -> list[str]:
    """Claims as a person reads them, two lines each."""
    lines = []
    for number, one in enumerate(findings, 1):
        row, effect = one.as_dict(), one.effect
        lines.append(f"{number}. {one.verdict}: {one.claim.text}")
        if effect is None:
            lines.append(f"   {row['figure']}: {one.note}")
            continue
        settings = "".join(f", {key} {value}" for key, value in one.settings.items())
        limit = f", to be above {one.claim.threshold:g}" if one.claim.threshold else ""
        seeds = len(effect.per_seed)
        lines.append(
            f"   {row['figure']}{settings}: {effect.value:+.3g} better "
            f"[{effect.low:+.3g}, {effect.high:+.3g}]{limit}"
            if one.claim.metric else
            f"   {row['figure']}{settings}: {effect.value:.3g} "
            f"[{effect.low:.3g}, {effect.high:.3g}]{limit}"
        )
        each = ", ".join(f"{value:+.3g}" for value in effect.per_seed)
        lines.append(
            f"   {seeds} seed{'s' * (seeds != 1)} ({each}), {effect.questions} questions"
        )
    return lines
