"""How far people agree with each other on the answers that both have labelled."""

from __future__ import annotations

from itertools import combinations

from kdharness.harness import stats
from kdharness.harness.analysis.labelling import valid_labels
from kdharness.harness.store import Store

AGREEMENT_COLUMNS = (
    "bench",
    "metric",
    "first",
    "second",
    "figure",
    "value",
    "low",
    "high",
    "n",
)


def agreement_rows(store: Store) -> list[dict[str, object]]:
    """Return kappa, rank correlation and share of equal labels of each two people.

    Answers to the same item are one unit. Where they have labelled nothing in common there is no
    row.
    """
    rows: list[dict[str, object]] = []
    for bench in sorted(store.labelled_benches()):
        given: dict[str, dict[str, dict[tuple[str, str, str], tuple[str, float]]]] = {}
        for label in valid_labels(store, None, bench):
            if label.value is not None:
                people = given.setdefault(label.metric, {}).setdefault(label.labeller, {})
                people[label.subject] = label.item, label.value
        for metric, labels in sorted(given.items()):
            for first, second in combinations(sorted(labels), 2):
                about = {"bench": bench, "metric": metric, "first": first, "second": second}
                pairs: dict[str, list[tuple[float, float]]] = {}
                for subject in labels[first].keys() & labels[second].keys():
                    item, value = labels[first][subject]
                    pairs.setdefault(item, []).append((value, labels[second][subject][1]))
                rows += [{**about, **figure} for figure in _figures(pairs)]
    return rows


def _figures(pairs: dict[str, list[tuple[float, float]]]) -> list[dict[str, object]]:
    """Return the figures of two people's labels, sorted so that bootstraps are the same."""
    ordered = {item: sorted(values) for item, values in sorted(pairs.items())}
    n = sum(map(len, ordered.values()))
    found = stats.rater_agreement(ordered)
    equal = stats.ratio_interval(
        [float(sum(a == b for a, b in values)) for values in ordered.values()],
        [float(len(values)) for values in ordered.values()],
        bounds=(0.0, 1.0),
    )
    return [
        {"figure": name, "value": i.value, "low": i.low, "high": i.high, "n": n}
        for name, i in (("kappa", found.kappa), ("spearman", found.spearman), ("equal", equal))
        if i is not None
    ]
