"""IFEval: words of a text, all of them and those in capitals."""

from __future__ import annotations

import re
import unicodedata
from functools import cache

_JOINERS = "\u200c\u200d"
# The Penn Treebank's tokens, as far as they divide what has letters: NLTK's `word_tokenize`.
_DIVIDERS = re.compile(r"[«“‘„`;@#$%&?!\u2012-\u2015]|\.{2,}|[:,](?!\d)")
_LATE_DIVIDERS = re.compile(r"""[»”’"\[\](){}<>*]|''|--""")
_OPENING = re.compile(r"'(?!(?:re|ve|ll|m|t|s|d|n)\b)(?=\w)", re.IGNORECASE)
_CLOSING = re.compile(r"(?<=[^'])' ")
_SUFFIXES = re.compile(r"(?<=[^' ])('[sSmMdD]|') ")
_LONG_SUFFIXES = re.compile(r"(?<=[^' ])('ll|'LL|'re|'RE|'ve|'VE|n't|N'T) ")
_JOINED = re.compile(
    r"\b(?:(can)(not)|(d)('ye)|(gim)(me)|(gon)(na)|(got)(ta)|(lem)(me)|(more)('n)|(wan)(na)(?=\s))\b",
    re.IGNORECASE,
)
_TIS = re.compile(r" ('t)(is|was)\b", re.IGNORECASE)


def count_words(text: str) -> int:
    """Return the number of runs of letters, marks, digits and underscores."""
    count, inside = 0, False
    for char in text:
        part = _in_word(char)
        count += part and not inside
        inside = part
    return count


@cache
def _in_word(char: str) -> bool:
    category = unicodedata.category(char)
    return category[0] in "LM" or category in ("Nd", "Nl", "Pc") or char in _JOINERS


def count_capital_words(text: str) -> int:
    """Return the number of tokens in capitals; a contraction has two: `DON'T` is `DO` and `N'T`."""
    text = _OPENING.sub(_quotation_mark, text.rstrip())
    text = _CLOSING.sub(" ' ", _DIVIDERS.sub(_apart, text))
    text = " ".join(["", *_LATE_DIVIDERS.sub(_apart, text).split(), ""])
    for suffixes in (_SUFFIXES, _LONG_SUFFIXES):
        text = suffixes.sub(r" \1 ", text)
    for joined in (_JOINED, _TIS):
        text = joined.sub(_apart, text)
    return sum(token.isupper() for token in text.split(" "))


def _quotation_mark(match: re.Match[str]) -> str:
    """Divide an apostrophe from the word behind it, unless it is within a word."""
    before = match.string[match.start() - 1 : match.start()]
    return "'" if before and _in_word(before) else "' "


def _apart(match: re.Match[str]) -> str:
    """Put spaces around a match, and between its groups."""
    parts = [part for part in match.groups() if part] or [match[0]]
    return f" {' '.join(parts)} "
