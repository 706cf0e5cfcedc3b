"""Exact metrics: text against reference, no judge. Pure; every value lies in 0-1.

Accuracy, exact match and the field F1 of a JSON object are what the shop benchmark and users'
own benchmarks are scored with. ROUGE-L follows Lin (2004): the F-measure of the longest common
subsequence of words.
"""

from __future__ import annotations

import json
import re
from collections import Counter
from collections.abc import Callable, Sequence
from decimal import Decimal
from typing import Any

from kdharness.judges.scoring.choices import names
from kdharness.judges.scoring.folding import normalise
from kdharness.judges.scoring.words import words

_OPENING = re.compile(r"[{\[]")
_FENCE = re.compile(r"```(?:json)?\s*(.*?)```", re.DOTALL | re.IGNORECASE)
_THOUSANDS = re.compile(r"[+-]?\d{1,3}(?:,\d{3})+(?:\.\d+)?")
_NUMBER = re.compile(r"[+-]?(?:0|[1-9]\d*)(?:\.\d*)?(?:e[+-]?\d+)?|[+-]?\.\d+(?:e[+-]?\d+)?")

_LARGEST = 300


def exact_match(answer: str, references: Sequence[str]) -> float:
    """1 when the answer equals one reference after `normalise`."""
    return float(normalise(answer) in {normalise(reference) for reference in references})


def accuracy(answer: str, references: Sequence[str], choices: Sequence[str] = ()) -> float:
    """1 when the choice that the answer gives is a reference.

    An answer that equals a choice gives it, and so does one that names no other. Of several the
    one counts that the answer declares (`declared.declared`); where it declares none, or several
    at once, it is wrong, so that listing every choice earns no more than a guess.
    Without choices this is `exact_match`.
    """
    if not choices:
        return exact_match(answer, references)
    return float(names(answer, references, choices))


def find_json(text: str, kind: type[Any] = dict) -> Any:
    """The JSON object or list that a text ends with, fenced or bare; None when there is none.

    An object goes before a list (or the other way round, by `kind`), a list before a citation
    such as `[1]`, what stands in a fence before what does not, and of several the last: an answer
    that corrects itself ends with what it means, and offering many earns nothing.
    """
    bare = _values(text)
    if len(bare) == 1 and text.strip()[:1] in ("{", "[") and text.strip()[-1:] in ("}", "]"):
        return bare[0]
    fenced = [value for block in _FENCE.findall(text) for value in _values(block)]
    for wanted in (kind, dict, list):
        for values in (fenced, bare):
            found = [v for v in values if isinstance(v, wanted) and not _is_citation(v)]
            if found:
                return found[-1]
    return bare[-1] if bare else None


def _values(text: str) -> list[Any]:
    """Every JSON object and list of a text that is not inside another one."""
    decoder = json.JSONDecoder()
    found: list[Any] = []
    place = 0
    while opening := _OPENING.search(text, place):
        try:
            value, place = decoder.raw_decode(text, opening.start())
        except RecursionError:
            # No answer is nested so deep, and looking at each level in turn would take forever.
            break
        except ValueError:
            place = opening.end()
        else:
            found.append(value)
    return found


def _is_citation(value: Any) -> bool:
    return isinstance(value, list) and len(value) == 1 and type(value[0]) is int


def flatten(value: Any, path: str = "") -> Counter[tuple[str, str]]:
    """A JSON value as a multiset of (path, normalised scalar); list order does not count."""
    found: Counter[tuple[str, str]] = Counter()
    if isinstance(value, dict):
        for key, part in value.items():
            found.update(flatten(part, f"{path}.{normalise(str(key))}"))
        if not value:
            found[(path, "{}")] += 1
    elif isinstance(value, list):
        for part in value:
            found.update(flatten(part, f"{path}[]"))
        if not value:
            found[(path, "[]")] += 1
    else:
        found[(path, _scalar(value))] += 1
    return found


def _scalar(value: Any) -> str:
    """A JSON scalar for comparison: 5, 5.0 and "5" are the same, true and "true" too."""
    if value is None:
        return "null"
    if isinstance(value, bool):
        return str(value).lower()
    text = normalise(str(value))
    digits = text.replace(",", "") if _THOUSANDS.fullmatch(text) else text
    if not _NUMBER.fullmatch(digits):
        # A number with leading zeros is a code, "1,5" no fifteen.
        return text
    number = Decimal(digits)
    if not -_LARGEST < number.adjusted() < _LARGEST:
        return digits
    # Whole numbers to the last digit, as a barcode has it; others as far as a float is exact.
    return str(int(number)) if number == number.to_integral_value() else f"{float(number):.12g}"


def json_f1(answer: str, references: Sequence[str]) -> float:
    """F1 over (field, value) pairs of the answer's JSON against the best reference.

    An answer without readable JSON scores 0: the form is part of the task.
    """
    best = 0.0
    for reference in references:
        wanted = find_json(reference)
        found = find_json(answer, list if isinstance(wanted, list) else dict)
        if found is None or wanted is None:
            continue
        try:
            best = max(best, _f1(flatten(found), flatten(wanted)))
        except RecursionError:
            continue
    return best


def _f1(got: Counter[tuple[str, str]], wanted: Counter[tuple[str, str]]) -> float:
    total = sum(got.values()) + sum(wanted.values())
    return 2 * sum((got & wanted).values()) / total if total else 0.0


def rouge_l(answer: str, references: Sequence[str]) -> float:
    """ROUGE-L F1 over casefolded words against the best reference.

    Scripts without blanks between words are compared by characters. A reference without any
    word, such as "+" or an emoji, is compared sign by sign.
    """
    best = 0.0
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
    """Length of the longest common subsequence, in O(len(right)) memory."""
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
"""Names that a benchmark row's `metric` may take."""


def score(
    metric: str, answer: str, references: Sequence[str], choices: Sequence[str] = ()
) -> float:
    """One answer's value under one of `METRICS`."""
    if metric == "accuracy":
        return accuracy(answer, references, choices)
    return METRICS[metric](answer, references)
