"""What does not count when texts are compared: case, width, spacing, signs around an answer.

Pure. A folding must never make two different answers alike, so signs are only taken off where
something is left, and `reading_of` reads choices that differ in case, or in signs, by just that.
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Callable, Sequence

Reading = Callable[[str], str]

# A power or a fraction is no way to write its digits: x² is not x2, and 2½ is not 21/2.
_COMPATIBLE = re.compile(r"[^²³¹⁰ⁱ⁴-ⁿ¼-¾⅐-⅟↉]+")
_SIGNS = " .!?;:,\"'`*。、…“”„‚‘’«»‹›「」『』¿¡؟،؛۔।"


# What nobody sees or means: marks of byte order and direction, soft hyphens, typographic forms of
# an apostrophe and of a hyphen. Joiners stay: in Persian and Hindi they tell words apart.
_TYPOGRAPHY: dict[int, str | None] = {
    **dict.fromkeys((0xFEFF, 0xAD, 0x200B, 0x200E, 0x200F, 0x61C)),
    **dict.fromkeys((*range(0x202A, 0x202F), *range(0x2060, 0x2065), *range(0x2066, 0x206A))),
    **dict.fromkeys((0x2018, 0x2019, 0x2BC, 0x2BB), "'"),
    **dict.fromkeys((0x2010, 0x2011, 0x2013, 0x2212), "-"),
}


def fold_width(text: str) -> str:
    """The text with one form for each letter (NFKC) and one blank for each stretch of them."""
    if not text.isascii():
        text = text.translate(_TYPOGRAPHY)
        text = _COMPATIBLE.sub(lambda part: unicodedata.normalize("NFKC", part.group()), text)
        text = unicodedata.normalize("NFC", text)
    return " ".join(text.split())


def _bare(text: str) -> str:
    """The text without the signs around it, unless it is made of signs."""
    kept = text.strip(_SIGNS)
    if not kept:
        return text
    before = text[: len(text) - len(text.lstrip(_SIGNS))]
    # ".5" is not "5", nor ".net" "net"; the dots of "...and" are an ellipsis.
    point = before.endswith(".") and not before.endswith("..")
    return f".{kept}" if point else kept


def normalise(text: str) -> str:
    """Case, width, spacing and closing punctuation are not what an answer is scored for."""
    return _bare(fold_width(unicodedata.normalize("NFC", fold_width(text).casefold())))


def cased(text: str) -> str:
    """The same with its case."""
    return _bare(fold_width(text))


def verbatim(text: str) -> str:
    """The text with its signs, in composed letters."""
    return " ".join(unicodedata.normalize("NFC", text).split())


READINGS: tuple[Reading, ...] = (normalise, cased, verbatim)
"""From the most lenient to the strictest."""


def reading_of(texts: Sequence[str]) -> Reading | None:
    """The most lenient reading under which all of these differ; None when two are the same."""
    for read in READINGS:
        if len({read(text) for text in texts}) == len(texts):
            return read
    return None
