"""Rules on curves: `domain_loss rose 3 times`, `loss above 5`, `loss not finite`."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Literal

Kind = Literal["rose", "fell", "above", "below", "not finite"]
WORDS = ("one", "two", "three", "four", "five", "six", "seven", "eight", "nine", "ten")
NUMBERS = {word: number for number, word in enumerate(WORDS, 1)} | {"once": 1, "twice": 2}
SIGNS: dict[str, Kind] = {">": "above", "<": "below"}
RULE = re.compile(
    r"(?P<curve>\S+)\s+(?:(?P<turn>rose|fell)\s+(?P<count>\w+)(?:\s+times?)?"
    r"|(?P<side>above|below|>|<)\s*(?P<limit>[-+.\w]+)"
    r"|(?:is\s+)?(?P<broken>not\s+finite|nan))",
    re.IGNORECASE,
)
FORMS = "CURVE rose 3 times, CURVE fell 3 times, CURVE above 5, CURVE below 0.1, CURVE not finite"


@dataclass(frozen=True)
class Rule:
    """One rule; `number` is how often a curve rose or fell in a row, or the limit."""

    text: str
    curve: str
    kind: Kind
    number: float = 0.0


def parse_rule(text: str) -> Rule:
    """Read a rule as a person writes it.

    Raises:
        ValueError: it is none; the message says which forms there are.
    """
    found = RULE.fullmatch(text.strip())
    if found is None:
        raise ValueError(f"{text!r} is not a rule on a curve; write one of: {FORMS}")
    curve = found["curve"]
    if found["broken"]:
        return Rule(text.strip(), curve, "not finite")
    if found["turn"]:
        count = NUMBERS.get(found["count"].lower()) or _whole(found["count"])
        if not count:
            raise ValueError(f"{text!r}: {found['count']!r} is not a number of times")
        turn: Kind = "rose" if found["turn"].lower() == "rose" else "fell"
        return Rule(text.strip(), curve, turn, count)
    try:
        limit = float(found["limit"])
    except ValueError:
        raise ValueError(f"{text!r}: {found['limit']!r} is not a number") from None
    if limit != limit:
        raise ValueError(f"{text!r}: nothing is above or below nan; write: {curve} not finite")
    word = found["side"].lower()
    side: Kind = SIGNS.get(word) or ("above" if word == "above" else "below")
    return Rule(text.strip(), curve, side, limit)


def _whole(text: str) -> int:
    return int(text) if text.isascii() and text.isdigit() else 0
