"""Normalisation for comparing texts: case, width, spacing, punctuation around an answer.

Pure. Normalisation must never make two different answers equal, so punctuation is only removed if
something is left, and `reading_of` keeps case or punctuation if choices differ only in that.
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Callable, Sequence

Reading = Callable[[str], str]

# Superscripts and fractions differ from their digits: x² is not x2, and 2½ is not 21/2.
_COMPATIBLE = re.compile(r"[^²³¹⁰ⁱ⁴-ⁿ¼-¾⅐-⅟↉]+")
_SIGNS = " .!?;:,\"'`*。、…“”„‚‘’«»‹›「」『』¿¡؟،؛۔।"


# Invisible or equivalent characters: byte-order and direction marks, soft hyphens, typographic
# apostrophes and hyphens. Joiners stay: in Persian and Hindi they distinguish words.
_TYPOGRAPHY: dict[int, str | None] = {
    **dict.fromkeys((0xFEFF, 0xAD, 0x200B, 0x200E, 0x200F, 0x61C)),
    **dict.fromkeys((*range(0x202A, 0x202F), *range(0x2060, 0x2065), *range(0x2066, 0x206A))),
    **dict.fromkeys((0x2018, 0x2019, 0x2BC, 0x2BB), "'"),
    **dict.fromkeys((0x2010, 0x2011, 0x2013, 0x2212), "-"),
}


# What a model writes around an answer: emphasis, mathematics, one pair of brackets, its own end.
_END_TOKEN = re.compile(
    r"(?:\s*(?:<\|(?:im_end|eot_id|end|endoftext|end_of_text|return)\|>|</s>|<eos>|<end_of_turn>))+"
    r"\s*\Z"
)
_WRAPPED = tuple(
    re.compile(pattern, re.DOTALL)
    for pattern in (
        r"\$\$?([^$]+)\$\$?",
        r"\\\((.+)\\\)",
        r"\\\[(.+)\\\]",
        r"\\boxed\s{0,3}\{([^{}]+)\}",
        r"__?([^_]+)__?",
        # An interval keeps its brackets: (0, 1) is not [0, 1].
        r"\(([^(),;]+)\)",
    )
)


def unwrapped(text: str) -> str:
    r"""Return an answer without what only surrounds it: `(42)`, `$42$`, `\boxed{42}`, `_Paris_`."""
    text = _END_TOKEN.sub("", text)
    while True:
        inner = text.strip(_SIGNS + "\n\t")
        match = next((m for pattern in _WRAPPED if (m := pattern.fullmatch(inner))), None)
        if match is None:
            return text
        text = match[1]


def fold_width(text: str) -> str:
    """Return the text with one form per letter (NFKC) and single spaces."""
    if not text.isascii():
        text = text.translate(_TYPOGRAPHY)
        text = _COMPATIBLE.sub(lambda part: unicodedata.normalize("NFKC", part.group()), text)
        text = unicodedata.normalize("NFC", text)
    return " ".join(text.split())


def _bare(text: str) -> str:
    """Return the text without surrounding punctuation, unless it is all punctuation."""
    kept = text.strip(_SIGNS)
    if not kept:
        return text
    before = text[: len(text) - len(text.lstrip(_SIGNS))]
    # ".5" is not "5", nor ".net" "net"; the dots of "...and" are an ellipsis.
    point = before.endswith(".") and not before.endswith("..")
    return f".{kept}" if point else kept


def normalise(text: str) -> str:
    """Remove differences in case, width, spacing and surrounding punctuation."""
    return _bare(fold_width(unicodedata.normalize("NFC", fold_width(text).casefold())))


def cased(text: str) -> str:
    """Do the same as `normalise`, but keep the case."""
    return _bare(fold_width(text))


def verbatim(text: str) -> str:
    """Return the text with its punctuation, in composed form (NFC)."""
    return " ".join(unicodedata.normalize("NFC", text).split())


READINGS: tuple[Reading, ...] = (normalise, cased, verbatim)
"""From most lenient to strictest."""


def reading_of(texts: Sequence[str]) -> Reading | None:
    """Return the most lenient reading under which all texts differ; None if two are the same."""
    for read in READINGS:
        if len({read(text) for text in texts}) == len(texts):
            return read
    return None
