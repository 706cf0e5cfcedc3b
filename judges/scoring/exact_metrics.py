"""Exact metrics: text against reference, no judge. Pure; every value is in 0-1.

The shop benchmark and users' own benchmarks use accuracy, exact match and the field F1 of a JSON
object. ROUGE-L follows Lin (2004): the F-measure of the longest common subsequence of words.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from kdharness.judges.scoring.choices import names
from kdharness.judges.scoring.folding import normalise, unwrapped
from kdharness.judges.scoring.found_json import find_json, is_citation
from kdharness.judges.scoring.json_fields import field_f1
from kdharness.judges.scoring.own_turn import before_end_token, before_next_turns
from kdharness.judges.scoring.words import words

__all__ = ["METRICS", "accuracy", "exact_match", "find_json", "json_f1", "rouge_l", "score"]


def exact_match(answer: str, references: Sequence[str]) -> float:
    """Return 1 if the answer equals a reference after `normalise`, else 0.

    It may be wrapped, as in `$42$`, where the reference is not, and run on after its end.
    """
    own = before_end_token(answer, references)
    given = {normalise(answer)}
    for text in (own, *(before.text for before in before_next_turns(own, references))):
        given |= {normalise(text), normalise(unwrapped(text))}
    return float(not given.isdisjoint(normalise(reference) for reference in references))


def accuracy(answer: str, references: Sequence[str], choices: Sequence[str] = ()) -> float:
    """Return 1 if the answer's choice is a reference, else 0.

    An answer that equals a choice gives it, and so does one that names no other. Among several,
    the one the answer declares counts (`declared.declared`); if it declares none, or several at
    once, it is wrong, so that listing every choice earns no more than a guess.
    Without choices this is `exact_match`.
    """
    if not choices:
        return exact_match(answer, references)
    return float(names(answer, references, choices))


def json_f1(answer: str, references: Sequence[str]) -> float:
    """Return the F1 over (field, value) pairs of the answer's JSON against the best reference.

    The order of a list does not matter, but what belongs to one element does. An answer without
    valid JSON scores 0: the format is part of the task.
    """
    best = 0.0
    for reference in references:
        wanted = find_json(reference)
        value = _own_json(answer, reference, list if isinstance(wanted, list) else dict)
        if value is None or wanted is None:
            continue
        try:
            best = max(best, field_f1(value, wanted))
        except RecursionError:
            continue
    return best


def _own_json(answer: str, reference: str, kind: type[Any]) -> object:
    """Return the JSON of an answer that may run on after its end."""
    own = before_end_token(answer, [reference])
    for before in before_next_turns(own, [reference]):
        value = find_json(before.text, kind)
        if isinstance(value, kind) and not is_citation(value):
            return value
    value = find_json(own, kind)
    return find_json(answer, kind) if value is None else value


def rouge_l(answer: str, references: Sequence[str]) -> float:
    """Return the ROUGE-L F1 over casefolded words against the best reference.

    Scripts without spaces between words are compared by characters. A reference without any word,
    such as "+" or an emoji, is compared symbol by symbol.
    """
    best = 0.0
    answer = before_end_token(answer, references)
    for reference in references:
        wanted, got = words(reference), words(answer)
        if not wanted:
            wanted, got = list("".join(reference.split())), list("".join(answer.split()))
        if not wanted or not got:
            best = max(best, float(got == wanted))
            continue
        best = max(best, 2 * _common_length(got, wanted) / (len(got) + len(wanted)))
    return best


def _common_length(left: Sequence[str], right: Sequence[str]) -> int:
    """Return the length of the longest common subsequence, in O(len(right)) memory."""
    row = [0] * (len(right) + 1)
    for word in left:
        corner = 0
        for index, other in enumerate(right, start=1):
            corner, row[index] = (
                row[index],
                (corner + 1 if word == other else max(row[index], row[index - 1])),
            )
    return row[-1]


METRICS: dict[str, Callable[..., float]] = {
    "exact_match": exact_match,
    "accuracy": accuracy,
    "json_f1": json_f1,
    "rouge_l": rouge_l,
}
"""Metric names that a benchmark row's `metric` may have."""


def score(
    metric: str, answer: str, references: Sequence[str], choices: Sequence[str] = ()
) -> float:
    """Return one answer's value under one of `METRICS`."""
    if metric == "accuracy":
        return accuracy(answer, references, choices)
    return METRICS[metric](answer, references)
