"""Exact metrics: text against reference, no judge. Pure; every value lies in 0-1.

Accuracy, exact match and the field F1 of a JSON object are what the shop benchmark and users'
own benchmarks are scored with. ROUGE-L follows Lin (2004): the F-measure of the longest common
subsequence of words.
"""

from __future__ import annotations

import json
import re
import unicodedata
from collections import Counter
from collections.abc import Callable, Sequence
from typing import Any

_FENCE = re.compile(r"```(?:json)?\s*(.*?)```", re.DOTALL | re.IGNORECASE)
_WORD = re.compile(r"\w+", re.UNICODE)


def normalise(text: str) -> str:
    """Case, width, spacing and closing punctuation are not what an answer is scored for."""
    folded = unicodedata.normalize("NFKC", text).casefold()
    return " ".join(folded.split()).strip(" .!?;:,\"'`*")


def exact_match(answer: str, references: Sequence[str]) -> float:
    """1 when the answer equals one reference after `normalise`."""
    return float(normalise(answer) in {normalise(reference) for reference in references})


def accuracy(answer: str, references: Sequence[str], choices: Sequence[str] = ()) -> float:
    """1 when the one choice that the answer names is a reference.

    An answer that equals a choice names it. Otherwise the choices are looked for as whole
    words, a longer choice hiding the shorter ones inside it; an answer that names none or
    several is wrong, so that listing every choice earns nothing. Without choices this is
    `exact_match`.
    """
    if not choices:
        return exact_match(answer, references)
    wanted = {normalise(reference) for reference in references}
    text = normalise(answer)
    options = sorted({normalise(choice) for choice in choices}, key=len, reverse=True)
    if text in options:
        return float(text in wanted)
    named = set()
    for option in options:
        pattern = rf"(?<!\w){re.escape(option)}(?!\w)"
        if re.search(pattern, text):
            named.add(option)
            text = re.sub(pattern, "\0", text)
    return float(len(named) == 1 and named <= wanted)


def find_json(text: str) -> Any:
    """The first JSON object or list in a text, fenced or bare; None when there is none."""
    decoder = json.JSONDecoder()
    for candidate in [*_FENCE.findall(text), text]:
        for match in re.finditer(r"[{\[]", candidate):
            try:
                value, _ = decoder.raw_decode(candidate, match.start())
            except (ValueError, RecursionError):
                continue
            return value
    return None


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
    try:
        number = float(text.replace(",", ""))
    except ValueError:
        return text
    return f"{number:.12g}"


def json_f1(answer: str, references: Sequence[str]) -> float:
    """F1 over (field, value) pairs of the answer's JSON against the best reference.

    An answer without readable JSON scores 0: the form is part of the task.
    """
    found = find_json(answer)
    if found is None:
        return 0.0
    best = 0.0
    got = flatten(found)
    for reference in references:
        wanted = flatten(find_json(reference))
        common = sum((got & wanted).values())
        total = sum(got.values()) + sum(wanted.values())
        best = max(best, 2 * common / total if total else 0.0)
    return best


def rouge_l(answer: str, references: Sequence[str]) -> float:
    """ROUGE-L F1 over casefolded words against the best reference."""
    words = _WORD.findall(answer.casefold())
    best = 0.0
    for reference in references:
        wanted = _WORD.findall(reference.casefold())
        if not words or not wanted:
            best = max(best, float(words == wanted))
            continue
        common = _common_length(words, wanted)
        best = max(best, 2 * common / (len(words) + len(wanted)))
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
