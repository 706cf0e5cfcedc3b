"""Choices that a text mentions, alone or together. Pure.

"A or B" and "(A), (B)" mention several choices at once: such a group declares none of them, and
words that reject one of them reject them all.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass

OPEN = r"[\s*_`\"'“‘«(\[{<$]"
"""Signs that may come before a choice, as a character class."""
SHUT = r"[\s*_`\"'”’»)\]}>$]"
"""Signs that may come after a choice, as a character class."""

_CONJUNCTION = r"\b(?:and|or|nor|und|oder|noch|et|ou|ni|y|o|e|né|и|или|ни)\b"
_JOINS = re.compile(
    rf"[^\S\n]{{0,3}}(?:[,/&+、，]|{_CONJUNCTION}|[和或与與及]|또는|및|と|や)"
    r"(?:[^\S\n]|[,/]|\b(?:and|or|nor|maybe|possibly|perhaps|also|even|both|option|choice|answer"
    r"|the|la|le|el|il|die|den|das|der|het|de)\b|\\[a-z]{1,12}){0,6}",
    re.IGNORECASE,
)
_GOES_ON = re.compile(
    r"\s{1,3}(?:is|was|are|being|has|does|can|would|isn|es|est|ist|è|é)\b", re.IGNORECASE
)
# "B，A、C、D均错误": the comma ends a clause if what follows it is said to be wrong.
_IS_WRONG = re.compile(r"\s?[均都皆全也则則]?[是为為]?(?:[错錯不非未]|有误|有誤)")


@dataclass(frozen=True)
class Mention:
    """A choice in a text: its span, and whether it is only negated ("not B")."""

    start: int
    end: int
    option: str
    denied: bool


def groups_of(text: str, mentions: Sequence[Mention]) -> list[list[Mention]]:
    """Group choices, in the order of the text, that are mentioned together."""
    groups: list[list[Mention]] = []
    for mention in mentions:
        if groups and _is_joined(text, groups[-1][-1], mention):
            groups[-1].append(mention)
        else:
            groups.append([mention])
    return [part for group in groups for part in _clauses(text, group)]


def only(group: Sequence[Mention]) -> str | None:
    """Return the only option of a group; None if it has others or a negated one."""
    named = {mention.option for mention in group}
    return named.pop() if len(named) == 1 and not any(m.denied for m in group) else None


def goes_on(text: str, end: int) -> bool:
    """Return whether what ends here is the subject of what follows: "A is …"."""
    return _GOES_ON.match(text, end) is not None


def _is_joined(text: str, one: Mention, two: Mention) -> bool:
    between = text[one.end : two.start]
    if len(between) > 40:
        return False
    inner = re.sub(rf"\A{SHUT}*", "", between)
    plain = re.sub(rf"{OPEN}*\Z", "", inner)
    if not plain:
        bare = not between.strip(" \t") or (")" in between and "(" in between)
        return bare and "\n" not in between
    comma = plain.strip() in (",", "，", "、")
    return _JOINS.fullmatch(plain) is not None and not (comma and goes_on(text, two.end))


def _clauses(text: str, group: list[Mention]) -> list[list[Mention]]:
    """Split a group at its first comma if what follows is said to be wrong."""
    if len(group) > 1 and _IS_WRONG.match(text, group[-1].end):
        for place in range(1, len(group)):
            if text[group[place - 1].end : group[place].start].strip() == ",":
                return [group[:place], group[place:]]
    return [group]
