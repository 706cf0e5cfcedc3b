"""Comparing two JSON values field by field. Pure.

Objects are compared by key, and lists element by element, in whatever order agrees best: fields
that were swapped between two elements are wrong, elements in another order are not.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Mapping, Sequence
from decimal import Decimal

from kdharness.judges.scoring.folding import normalise

_THOUSANDS = re.compile(r"[+-]?\d{1,3}(?:,\d{3})+(?:\.\d+)?")
_NUMBER = re.compile(r"[+-]?(?:0|[1-9]\d*)(?:\.\d*)?(?:e[+-]?\d+)?|[+-]?\.\d+(?:e[+-]?\d+)?")
_LARGEST = 300
_MOST_PAIRED = 200
"""Maximum number of unequal elements of a list that are compared with each other."""


def field_f1(got: object, wanted: object) -> float:
    """Return the F1 over the fields of two values."""
    total = _size(got) + _size(wanted)
    return 2 * _common(got, wanted) / total if total else 0.0


def _size(value: object) -> int:
    """Return the number of fields: scalars, and empty objects and lists."""
    if isinstance(value, Mapping):
        return sum(map(_size, value.values())) or 1
    if isinstance(value, list):
        return sum(map(_size, value)) or 1
    return 1


def _common(got: object, wanted: object) -> int:
    """Return the number of fields that two values have in common."""
    if isinstance(got, Mapping) and isinstance(wanted, Mapping):
        ours, theirs = _by_key(got), _by_key(wanted)
        both = sum(_paired(ours[key], theirs[key]) for key in ours.keys() & theirs.keys())
        return both or int(not got and not wanted)
    if isinstance(got, list) and isinstance(wanted, list):
        return _paired(got, wanted) or int(not got and not wanted)
    if isinstance(got, (Mapping, list)) or isinstance(wanted, (Mapping, list)):
        return 0
    return int(_equal(got, wanted))


def _by_key(value: Mapping[str, object]) -> dict[str, list[object]]:
    """Return normalised key -> values; keys that differ in case alone are one."""
    found: dict[str, list[object]] = {}
    for key, part in value.items():
        found.setdefault(normalise(str(key)), []).append(part)
    return found


def _paired(got: Sequence[object], wanted: Sequence[object]) -> int:
    """Return the common fields of two lists: equal elements first, then those most alike."""
    if len(got) == 1 == len(wanted):
        return _common(got[0], wanted[0])
    open_wanted: list[object] = []
    places: dict[str, list[int]] = {}
    for index, part in enumerate(got):
        places.setdefault(_canonical(part), []).append(index)
    matched: set[int] = set()
    found = 0
    for part in wanted:
        same = places.get(_canonical(part))
        if same:
            matched.add(same.pop())
            found += _size(part)
        else:
            open_wanted.append(part)
    open_got = [part for index, part in enumerate(got) if index not in matched]
    pairs = sorted(
        (
            (-_common(one, other), abs(_size(one) - _size(other)), i, j)
            for i, one in enumerate(open_got[:_MOST_PAIRED])
            for j, other in enumerate(open_wanted[:_MOST_PAIRED])
        ),
    )
    used: Counter[tuple[str, int]] = Counter()
    for common, _, i, j in pairs:
        if common < 0 and not used["got", i] and not used["wanted", j]:
            used["got", i] = used["wanted", j] = 1
            found -= common
    return found


def _canonical(value: object) -> str:
    """Return a text that is the same for equal values, whatever the order of their parts."""
    if isinstance(value, Mapping):
        parts = [
            f"{key!r}:{sorted(map(_canonical, values))}" for key, values in _by_key(value).items()
        ]
        return "{" + ",".join(sorted(parts)) + "}"
    if isinstance(value, list):
        return "[" + ",".join(sorted(map(_canonical, value))) + "]"
    if isinstance(value, str):
        return repr(normalise(value))
    return "null" if value is None else f"{_number(value)}"


def _equal(one: object, two: object) -> bool:
    """Return whether two scalars are the same.

    Texts are compared as texts: "1.10" is a version and "+49301234" a telephone number. A number
    and a text are compared as numbers: 5, 5.0 and "5" are the same; so are true and "true".
    """
    if one is None or two is None:
        return one is two
    if isinstance(one, str) and isinstance(two, str):
        return normalise(one) == normalise(two)
    if isinstance(one, bool) or isinstance(two, bool):
        return normalise(str(one)) == normalise(str(two))
    first, second = _number(one), _number(two)
    return first is not None and first == second


def _number(value: object) -> str | None:
    """Return a number in one spelling; None for a text that is none.

    A number with leading zeros is a code, and "1,5" is not fifteen.
    """
    text = normalise(str(value))
    digits = text.replace(",", "") if _THOUSANDS.fullmatch(text) else text
    if not _NUMBER.fullmatch(digits):
        return None if isinstance(value, str) else text
    number = Decimal(digits)
    if not -_LARGEST < number.adjusted() < _LARGEST:
        return digits
    # Integers to the last digit, like barcodes; others to a float's precision.
    return str(int(number)) if number == number.to_integral_value() else f"{float(number):.12g}"
