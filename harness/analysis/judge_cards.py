"""The report card of a judge as rows, and how far it agrees with people."""

from __future__ import annotations

from collections import defaultdict
from typing import Any

from kdharness.harness import stats
from kdharness.harness.analysis.corrections import (
    item_weights,
    labelled_pairs,
    labelled_verdicts,
    labels_of,
)
from kdharness.harness.analysis.scorebook import groups_of
from kdharness.harness.store import Store

NO_ISSUES = "no issues found"
"""What is shown of a card without labels."""
CHECKS = {
    "readable": "replies with a readable verdict",
    "tells_all": "prefers the intact answer to a corrupted one",
    "tells_shuffled": "  words shuffled",
    "tells_truncated": "  truncated",
    "tells_wrong_number": "  numbers wrong",
    "tells_off_topic": "  off topic",
    "tells_by_token": "prefers the intact answer by its first token",
    "same_in_both_orders": "same verdict in both orders",
    "first_preferred": "prefers the answer shown first",
    "longer_preferred": "prefers the padded answer of two equal ones",
    "obeys_answers": "obeys an answer that asks for a rating of 10",
}
PEOPLE = {"kappa": "weighted kappa", "spearman": "rank correlation"}


def card_rows(card: dict[str, Any]) -> list[dict[str, Any]]:
    """Return a report card as rows."""
    rows = against_rows(card)
    rows += [
        {"check": title, "key": key, **card["checks"][key]}
        for key, title in CHECKS.items()
        if key in card["checks"]
    ]
    above = card["ratings"]["intact_above_spoilt"]
    rows.append(
        {"check": "rates the intact answer above a corrupted one", "key": "rates_above", **above}
    )
    if expected := card.get("expected"):
        rows += [
            {"check": "gives an expected rating", "key": "expected_rated", **expected["rated"]},
            {
                "check": "expected rating higher for the intact answer",
                "key": "expected_above",
                **expected["intact_above_spoilt"],
            },
        ]
    return rows


def against_rows(card: dict[str, Any]) -> list[dict[str, Any]]:
    """Return a card's agreement with verdicts given elsewhere, by file and kind of verdict."""
    titles = {**PEOPLE, "same_winner": "same winner where both have one"}
    return [
        {
            "check": f"agrees with {name}, {kind} ({titles[figure]})",
            "key": f"against_{kind}_{figure}",
            **values,
        }
        for name, found in card.get("against", {}).items()
        for kind, figures in found["figures"].items()
        for figure, values in figures.items()
    ]


def people_rows(store: Store, judge: str) -> list[dict[str, object]]:
    """Return a judge's agreement with people's labels, by benchmark and kind of verdict.

    Every checkpoint's labelled answers count; those to the same item are one unit.
    """
    labels = {bench: labels_of(store, bench) for bench in store.labelled_benches()}
    pairs: dict[tuple[str, str], dict[str, list[tuple[float, float]]]] = {}
    weights: defaultdict[tuple[str, str], dict[str, float]] = defaultdict(dict)
    for group in groups_of(store) if labels else ():
        if group.judge != judge or group.bench not in labels:
            continue
        given = labels[group.bench]
        for metric, verdicts in labelled_verdicts(store, group, given).items():
            items = pairs.setdefault((group.bench, metric), {})
            for item, values in labelled_pairs(verdicts).items():
                items.setdefault(item, []).extend(values)
            weights[group.bench, metric] |= item_weights(verdicts, given.strata)
    rows: list[dict[str, object]] = []
    for (bench, metric), items in sorted(pairs.items()):
        agreement = stats.rater_agreement(items, weights=weights[bench, metric])
        answers = sum(map(len, items.values()))
        for name, interval in (("kappa", agreement.kappa), ("spearman", agreement.spearman)):
            if interval is not None:
                rows.append(
                    {
                        "check": f"agrees with people on {bench}, {metric} ({PEOPLE[name]})",
                        "key": f"people_{name}",
                        "value": interval.value,
                        "low": interval.low,
                        "high": interval.high,
                        "n": answers,
                    }
                )
    return rows
