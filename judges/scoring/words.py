"""Splitting text into words, in every script, with and without spaces.

Latin, Arabic, Indic and Korean text is split at spaces and punctuation; vowel signs and other
marks stay with their letter. Chinese, Japanese, Thai, Lao, Khmer and Burmese have no spaces
between words: there each character, with its marks, is a word.
"""

from __future__ import annotations

import re
import unicodedata
from functools import cache

# Scripts written without spaces. Characters of the first two groups amount to about half an
# English word, those of the third, which spell a word out, to about a quarter.
_HAN = r"\u2E80-\u2FDF\u3005-\u3007\u3021-\u3029\u3400-\u4DBF\u4E00-\u9FFF\uF900-\uFAFF"
_HAN += r"\U00020000-\U0003FFFD"
_KANA = r"\u3031-\u3035\u3041-\u30FF\u3100-\u312F\u31A0-\u31BF\u31F0-\u31FF\U0001AFF0-\U0001B16F"
_SPELT = r"\u0E00-\u0EFF\u1000-\u109F\u1780-\u17FF\u1950-\u19FF\u1A20-\u1AAF\u1B00-\u1B7F"
_SPELT += r"\uA980-\uA9FF\uAA60-\uAADF"
UNSPACED = _HAN + _KANA + _SPELT
"""Inside a character class: characters that are words by themselves."""

# Different characters for an apostrophe, two of which count as letters.
_APOSTROPHES = {0x02BB: "'", 0x02BC: "'", 0x2019: "'"}
_BREAKS = {0x200B: " "}
_SPACED = re.compile(r"\w+")


@cache
def marks() -> str:
    """Return all combining marks as the inside of a character class; `re` has no class for them."""
    ranges: list[list[int]] = []
    for code in (*range(0x300, 0x20000), *range(0xE0100, 0xE01F0)):
        if unicodedata.category(chr(code))[0] != "M":
            continue
        if ranges and ranges[-1][1] == code - 1:
            ranges[-1][1] = code
        else:
            ranges.append([code, code])
    return "".join(f"{chr(first)}-{chr(last)}" for first, last in ranges)


@cache
def _invisible() -> dict[int, str | None]:
    """Return format characters, which are not part of a word: joiners, soft hyphens, and so on."""
    table: dict[int, str | None] = {
        code: None for code in range(0x20000) if unicodedata.category(chr(code)) == "Cf"
    }
    return {**table, **_BREAKS, **_APOSTROPHES}


@cache
def _pattern() -> re.Pattern[str]:
    return re.compile(rf"(?=\w)[{UNSPACED}][{marks()}]*|(?:[^\W{UNSPACED}][{marks()}]*)+")


def words(text: str) -> list[str]:
    """Return casefolded words without punctuation; characters for scripts without spaces.

    Wide and narrow, composed and decomposed forms of a letter are the same.
    """
    if text.isascii():
        return _SPACED.findall(text.casefold())
    shown = unicodedata.normalize("NFKC", text).translate(_invisible()).casefold()
    return _pattern().findall(unicodedata.normalize("NFC", shown))


@cache
def _spelt() -> re.Pattern[str]:
    return re.compile(f"[{_SPELT}]")


@cache
def _symbols() -> re.Pattern[str]:
    return re.compile(f"[{_HAN}{_KANA}]")


def quarters(word: str) -> int:
    """Return how much of an English word one of `words` amounts to, in quarters.

    A Chinese or Japanese word has about two characters, a Thai or Khmer one about four letters.
    """
    if word.isascii():
        return 4
    if _spelt().match(word):
        return 1
    return 2 if _symbols().match(word) else 4
