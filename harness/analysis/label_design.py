"""Which answers to label next: where labels tell most about a judge.

The items of a benchmark are put into strata by what judges said of them: by their verdicts, and
by their uncertainty where they give a distribution. The first labels are spread over the strata
in proportion to their sizes; later ones go where labels have differed most. Within a stratum the
order is random. `stats.stratified` weighs the labels accordingly.

The strata are fixed for a benchmark as soon as an item was labelled by them, so that checkpoints
are labelled on the same items. Labels of a simple random sample fit any strata.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from kdharness.harness import stats
from kdharness.harness.analysis.labelling import (
    KIND_OF,
    RATING,
    LabelTask,
    open_tasks,
    random_place,
    valid_labels,
)
from kdharness.harness.stats.metric_specs import EXPECTED_RATING, metric_spec
from kdharness.harness.store import Store
from kdharness.harness.store.labels import Label
from kdharness.harness.types import digest

LEAST_NEW = 5
"""So many new items make a stratum of their own; fewer come last."""


def design_in_use(store: Store, labels: Iterable[Label]) -> tuple[str, dict[str, int]]:
    """Return the id and strata of the design that most labels were chosen by; empty without."""
    counts = Counter(str(x.info["design"]) for x in labels if x.info.get("design"))
    for design in sorted(counts, key=lambda name: (-counts[name], name)):
        if strata := store.label_design(design):
            return design, strata
    return "", {}


def is_sampled(label: Label, design: str) -> bool:
    """Return whether a label was asked for at random: from all items, or by these strata."""
    return "seed" in label.info and label.info.get("design", design) == design


@dataclass(frozen=True)
class LabelQueue:
    """The answers that a person has not labelled, in order, and the strata they come from."""

    tasks: list[LabelTask]
    design: str


def label_queue(
    store: Store, bench: str, tasks: Sequence[LabelTask], labeller: str, seed: int, now: float
) -> LabelQueue:
    """Return what a person should label next, and store the strata by which it was chosen.

    Without enough items for strata, or where nothing can be stored, items are drawn from all.

    Args:
        now: when, in seconds.
    """
    given = store.labels(None, bench)
    valid = valid_labels(store, None, bench)
    design, strata = design_in_use(store, valid)
    sampled = [label for label in valid if is_sampled(label, design)]
    items = {task.answer.item for task in tasks}
    new = items - strata.keys()
    if not strata:
        strata = stats.strata_by(*_verdicts(store, bench))
        design = digest("label design", bench, sorted(strata.items()))
    elif len(new) >= LEAST_NEW:
        strata |= dict.fromkeys(sorted(new), max(strata.values()) + 1)
    else:
        new = set()
    unsaved = bool(new) or not store.label_design(design)
    if len(set(strata.values())) < 2 or (unsaved and store.read_only):
        return LabelQueue(open_tasks(tasks, given, labeller, seed), "")
    if unsaved:
        store.set_label_design(design, bench, strata, now)
    order = _item_order(items & strata.keys(), strata, sampled, seed, bench)
    return LabelQueue(open_tasks(tasks, given, labeller, seed, order), design)


def _verdicts(store: Store, bench: str) -> tuple[dict[str, float], dict[str, float]]:
    """Return the mean verdict of each item, in 0-1, and the mean entropy of its ratings."""
    values: dict[str, list[float]] = {}
    for item, metric, value in store.bench_verdicts(bench):
        if metric in KIND_OF:
            spec = metric_spec(metric)
            values.setdefault(item, []).append((value - spec.low) / (spec.high - spec.low))
    doubts: dict[str, list[float]] = {}
    for item, shares in store.verdict_distributions(bench, EXPECTED_RATING):
        total = sum(shares.values()) or 1.0
        parts = [share / total for share in shares.values() if share > 0]
        doubts.setdefault(item, []).append(-sum(part * math.log(part) for part in parts))
    return _means(values), _means(doubts)


def _means(lists: Mapping[str, Sequence[float]]) -> dict[str, float]:
    return {name: sum(values) / len(values) for name, values in sorted(lists.items())}


def _item_order(
    items: Iterable[str],
    strata: Mapping[str, int],
    labels: Sequence[Label],
    seed: int,
    bench: str,
) -> dict[str, int]:
    """Return the place of each item: first those with labels, by anyone and of any checkpoint.

    So checkpoints are labelled on the same items. Any beginning of the order has each stratum in
    about the right share, and its items are a random sample of the stratum.
    """
    waiting: dict[int, list[str]] = {}
    for item in sorted(items, key=lambda item: random_place(seed, bench, item)):
        waiting.setdefault(strata[item], []).append(item)
    sizes = {kind: len(inside) for kind, inside in sorted(waiting.items())}
    labelled = {label.item for label in labels}
    before = {kind: [i for i in inside if i in labelled] for kind, inside in waiting.items()}
    after = {kind: [i for i in inside if i not in labelled] for kind, inside in waiting.items()}
    placed: Counter[int] = Counter()
    order = _interleaved(before, {kind: float(len(x)) for kind, x in before.items()}, placed)
    order += _interleaved(after, stats.label_shares(sizes, _by_stratum(labels, strata)), placed)
    return {item: place for place, item in enumerate(order)}


def _interleaved(
    waiting: Mapping[int, Sequence[str]], shares: Mapping[int, float], placed: Counter[int]
) -> list[str]:
    """Draw items from strata in these shares (Sainte-Laguë's method); update `placed`."""
    left = {kind: list(reversed(items)) for kind, items in waiting.items() if items}
    order: list[str] = []
    while left:
        kind = max(left, key=lambda k: (shares.get(k, 0.0) / (2 * placed[k] + 1), -k))
        order.append(left[kind].pop())
        placed[kind] += 1
        if not left[kind]:
            del left[kind]
    return order


def _by_stratum(labels: Sequence[Label], strata: Mapping[str, int]) -> dict[int, list[float]]:
    """Return the labels' mean by item, in 0-1 and less the mean of their checkpoint."""
    groups: dict[tuple[str, str], list[tuple[str, float]]] = {}
    for label in labels:
        if label.value is not None and label.item in strata:
            value = (label.value - 1) / 9 if label.metric == RATING else label.value
            groups.setdefault((label.checkpoint, label.metric), []).append((label.item, value))
    items: dict[str, list[float]] = {}
    for rows in groups.values():
        mean = sum(value for _, value in rows) / len(rows)
        for item, value in rows:
            items.setdefault(item, []).append(value - mean)
    found: dict[int, list[float]] = {}
    for item, value in _means(items).items():
        found.setdefault(strata[item], []).append(value)
    return found
