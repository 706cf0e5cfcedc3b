"""Scores corrected by people's labels: metrics of their own, beside the judge's.

A judge's verdicts of all answers and people's labels of some give an estimate of what people
would say of all (`stats.corrected`). A verdict and a label belong together if they are about the
same answer with the same text.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, NamedTuple

from kdharness.harness import stats
from kdharness.harness.analysis.label_design import design_in_use, is_sampled
from kdharness.harness.analysis.labelling import KIND_OF, PAIR, valid_labels
from kdharness.harness.analysis.scorebook import Group
from kdharness.harness.stats.metric_specs import EXPECTED_RATING, RATING, SHARE, percent
from kdharness.harness.stats.rows import metric_value, outcome_of
from kdharness.harness.store import Store
from kdharness.harness.types import MetricValue

if TYPE_CHECKING:
    from kdharness.harness.stats.corrected import Corrected, Question
    from kdharness.harness.stats.inference import Difference

CORRECTED = "corrected_"
"""Begins the metrics of corrected scores, followed by the judge's metric."""
SKIPPED = 0.2
"""Items of which people may have skipped a turn, as a share of the labelled ones."""
_RAW = {
    "rating": ("rating", "score"),
    EXPECTED_RATING: (EXPECTED_RATING,),
    "pair": ("win_rate_adjusted", "pair", "score"),
    "preference": ("win_rate",),
}
"""Metric of a judgment -> the score that is their mean: the first that the group has."""

Place = tuple[str, int, str]
"""(item, turn, baseline)"""


class LabelledVerdict(NamedTuple):
    """A judge's verdict of an answer, and people's mean label of it, None without a label."""

    judged: float
    labelled: float | None
    sampled: bool = True
    """Whether the label was asked for at random."""


Verdicts = Mapping[Place, LabelledVerdict]


class Labels(NamedTuple):
    """A benchmark's labels.

    Attributes:
        given: subject of a label -> (value, whether it was sampled) of each person's.
        strata: the stratum of each item, if they were not equally likely to be labelled.
    """

    given: Mapping[tuple[str, str, str], Sequence[tuple[float, bool]]]
    strata: Mapping[str, int] = {}


def labelled_verdicts(store: Store, group: Group, labels: Labels) -> dict[str, Verdicts]:
    """Return the verdicts of a group with their labels, by the judgments' metric.

    Preferences and comparisons are shares: 1 if the model's answer is better.

    Args:
        labels: of the group's benchmark (`labels_of`).
    """
    newest: dict[tuple[str, Place], dict[int, tuple[str | None, float]]] = {}
    for item, turn, metric, order, baseline, answer, value in store.judged_rows(
        group.checkpoint, group.bench, group.revision, group.judge
    ):
        if metric in KIND_OF and value is not None:
            about = baseline if KIND_OF[metric] == PAIR else ""
            newest.setdefault((metric, (item, turn, about)), {})[order] = (answer, value)
    tables: dict[str, dict[Place, LabelledVerdict]] = {}
    for (metric, place), orders in newest.items():
        judged = _verdict(metric, [value for _, value in orders.values()])
        if judged is None:
            continue
        answer = next(iter(orders.values()))[0] or ""
        given = labels.given.get((KIND_OF[metric], answer, place[2]), ())
        people = sum(value for value, _ in given) / len(given) if given else None
        sampled = all(sampled for _, sampled in given)
        tables.setdefault(metric, {})[place] = LabelledVerdict(judged, people, sampled)
    return dict(tables)


def labels_of(store: Store, bench: str) -> Labels:
    """Return the valid labels of a benchmark's answers.

    A pair of two checkpoints' answers is a label of both. Labels that were chosen by other strata
    than most of the others, or by strata that are not in this store, count as chosen by hand.
    """
    table: dict[tuple[str, str, str], list[tuple[float, bool]]] = {}
    names = {checkpoint.id: checkpoint.name for checkpoint in store.checkpoints()}
    valid = valid_labels(store, None, bench)
    design, strata = design_in_use(store, valid)
    for label in valid:
        if label.value is None:
            continue
        sampled = is_sampled(label, design)
        table.setdefault(label.subject, []).append((label.value, sampled))
        if label.metric == PAIR and label.other and label.checkpoint in names:
            mirrored = (PAIR, label.other, names[label.checkpoint])
            table.setdefault(mirrored, []).append((1 - label.value, sampled))
    return Labels(table, strata)


def _verdict(metric: str, values: Sequence[float]) -> float | None:
    """Return one verdict of the verdicts in both orders; None if an order is missing."""
    if metric == "preference":
        return percent(values[-1]) / 100
    if metric != "pair":
        return values[-1]
    return outcome_of(values) if len(values) == 2 else None


def questions_of(verdicts: Verdicts, strata: Mapping[str, int]) -> list[Question]:
    """Return the sums of each item over its turns and opponents, and its stratum.

    Items that came after the strata are one more stratum.
    """
    from_item: dict[str, list[LabelledVerdict]] = {}
    for (item, _, _), verdict in verdicts.items():
        from_item.setdefault(item, []).append(verdict)
    questions: list[Question] = []
    for item, rows in from_item.items():
        judged = [row.judged for row in rows]
        given = [(row.labelled, row.judged) for row in rows if row.labelled is not None]
        labels, judged_labelled = sum(y for y, _ in given), sum(f for _, f in given)
        stratum = strata.get(item, len(strata))
        question = stats.Question(sum(judged), len(rows), labels, len(given), judged_labelled)
        questions.append(question._replace(stratum=stratum))
    return questions


def scale_of(metric: str) -> float:
    """Return what a score is multiplied with for display: preferences count in percent."""
    return 100.0 if metric == "preference" else 1.0


def correct(
    metric: str, verdicts: Verdicts, strata: Mapping[str, int], *, difference: bool = False
) -> Corrected | None:
    """Return the corrected mean of verdicts, or of differences of two checkpoints' verdicts."""
    low, high = (SHARE if KIND_OF[metric] == PAIR else RATING).bounds
    bounds = (low - high, high - low) if difference else (low, high)
    return stats.corrected_mean(
        questions_of(verdicts, strata), bounds=bounds, coarse=KIND_OF[metric] == PAIR
    )


def add_corrections(
    store: Store, figures: Mapping[Group, Sequence[MetricValue]]
) -> dict[Group, list[MetricValue]]:
    """Return the scores of each group, followed by the corrected ones where there are labels."""
    labels = {bench: labels_of(store, bench) for bench in store.labelled_benches()}
    return {
        group: [*values, *_corrections(store, group, values, labels[group.bench])]
        if group.bench in labels and _is_judge(group.judge)
        else list(values)
        for group, values in figures.items()
    }


def _is_judge(name: str) -> bool:
    return name != "exact" and not name.startswith(("panel:", "published:"))


def _corrections(
    store: Store, group: Group, values: Sequence[MetricValue], labels: Labels
) -> Iterable[MetricValue]:
    names = {value.metric for value in values if value.value is not None}
    tables = labelled_verdicts(store, group, labels)
    labelled = [
        m for m, table in tables.items() if any(v.labelled is not None for v in table.values())
    ]
    for metric in labelled:
        raw = raw_name(metric, names)
        if raw is not None:
            yield from _with_agreement(
                raw, metric, tables[metric], labels.strata, several=len(labelled) > 1
            )


def raw_name(metric: str, names: Collection[str]) -> str | None:
    """Return the score that is the mean of a judgment's metric, of those that a group has."""
    return next((name for name in _RAW[metric] if name in names), None)


def _with_agreement(
    raw: str, metric: str, verdicts: Verdicts, strata: Mapping[str, int], several: bool
) -> Iterable[MetricValue]:
    """Yield the corrected score, and what it rests on."""
    corrected = correct(metric, verdicts, strata)
    if corrected is None:
        return
    given = [verdict for verdict in verdicts.values() if verdict.labelled is not None]
    flags = [f"labels:{len(given)} of {len(verdicts)}"]
    if not all(verdict.sampled for verdict in given) or _labels_some_turns(verdicts):
        flags.append("chosen-labels")
    yield metric_value(
        f"{CORRECTED}{raw}",
        corrected.interval,
        len(given),
        0,
        scale=scale_of(metric),
        flags=tuple(flags),
    )
    end = f"_{raw}" if several else ""
    yield MetricValue(f"n_labels{end}", float(len(given)), None, None, len(given))
    if corrected.to_halve is not None:
        more = float(corrected.to_halve)
        yield MetricValue(f"n_labels_to_halve{end}", more, None, None, len(given))
    agreement = stats.rater_agreement(
        labelled_pairs(verdicts), weights=item_weights(verdicts, strata)
    )
    for name, interval in (("kappa", agreement.kappa), ("spearman", agreement.spearman)):
        if interval is not None:
            yield metric_value(f"agreement_people_{name}{end}", interval, len(given), 0)


def labelled_pairs(verdicts: Verdicts) -> dict[str, list[tuple[float, float]]]:
    """Return (judge's value, people's value) of each labelled answer, by item."""
    pairs: dict[str, list[tuple[float, float]]] = {}
    for (item, _, _), verdict in verdicts.items():
        if verdict.labelled is not None:
            pairs.setdefault(item, []).append((verdict.judged, verdict.labelled))
    return pairs


def item_weights(verdicts: Verdicts, strata: Mapping[str, int]) -> dict[str, float]:
    """Return what each labelled item counts for: items of its stratum per labelled one."""
    if not strata:
        return {}
    questions = questions_of(verdicts, strata)
    items = dict.fromkeys(item for item, _, _ in verdicts)
    labelled = [item for item, q in zip(items, questions, strict=True) if q.n_labels > 0]
    return dict(zip(labelled, stats.question_weights(questions), strict=True))


def _labels_some_turns(verdicts: Verdicts) -> bool:
    """Return whether only some turns of many items are labelled, which is no random sample."""
    labelled: dict[str, set[bool]] = {}
    for (item, _, _), verdict in verdicts.items():
        labelled.setdefault(item, set()).add(verdict.labelled is not None)
    partly = sum(len(kinds) == 2 for kinds in labelled.values())
    # The last item may be half done, and a few answers may have been skipped.
    return partly > max(1.0, SKIPPED * sum(True in kinds for kinds in labelled.values()))


def is_corrected(metric: str) -> bool:
    """Return whether a score is corrected by labels."""
    return metric.startswith(CORRECTED)


def corrected_differences(
    store: Store, base: Group, other: Group, names: Collection[str]
) -> list[tuple[str, tuple[float, float], Difference]]:
    """Return (metric, both corrected scores, other minus base) of two checkpoints' groups.

    The difference is paired: it is over the answers that both gave, and rests on those of which
    both are labelled.
    """
    if base.bench not in store.labelled_benches():
        return []
    labels = labels_of(store, base.bench)
    first, second = (labelled_verdicts(store, group, labels) for group in (base, other))
    compared = []
    for metric, verdicts in first.items():
        mine, theirs = verdicts, second.get(metric, {})
        sides = correct(metric, mine, labels.strata), correct(metric, theirs, labels.strata)
        gap = correct(metric, _differences(mine, theirs), labels.strata, difference=True)
        raw = raw_name(metric, names)
        if gap is None or sides[0] is None or sides[1] is None or raw is None:
            continue
        scale = scale_of(metric)
        low, high = (
            None if end is None else end * scale for end in (gap.interval.low, gap.interval.high)
        )
        n = gap.interval.n
        difference = stats.Difference(gap.interval.value * scale, low, high, gap.p, n, None)
        values = sides[0].interval.value * scale, sides[1].interval.value * scale
        compared.append((f"{CORRECTED}{raw}", values, difference))
    return compared


def _differences(first: Verdicts, second: Verdicts) -> Verdicts:
    """Return second minus first wherever both were judged, labelled where both were labelled."""
    table: dict[Place, LabelledVerdict] = {}
    for place, verdict in first.items():
        other = second.get(place)
        if other is None:
            continue
        both = verdict.labelled is not None and other.labelled is not None
        gap = (other.labelled or 0.0) - (verdict.labelled or 0.0) if both else None
        table[place] = LabelledVerdict(other.judged - verdict.judged, gap)
    return table
