"""Normalisation for comparing texts: case, width, spacing, punctuation around an answer.

Pure. Normalisation must never make two different answers equal. Punctuation is only removed if
something is left and if it cannot be part of the answer: emphasis and quotation marks in pairs, and
what ends a sentence. `reading_of` keeps case or punctuation if choices differ only in that.
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Callable, Sequence

Reading = Callable[[str], str]

# Superscripts and fractions differ from their digits: x² is not x2, and 2½ is not 21/2.
_COMPATIBLE = re.compile(r"[^²³¹⁰ⁱ⁴-ⁿ¼-¾⅐-⅟↉]+")
_SIGNS = " .!?;:,\"'`*。、…“”„‚‘’«»‹›「」『』¿¡؟،؛۔।"
# Of these, the ones that may be part of an answer at its beginning (.5, !x, *args) or its end (5!,
# 6", f', int*).
_OPENING = frozenset(_SIGNS) - frozenset(".!*'\"")
_CLOSING = frozenset(_SIGNS) - frozenset("!*'\"")
_PAIRED = frozenset("*'\"")
# Text with a word is a sentence; without one it is a formula, and its "!" a factorial.
_WORD = re.compile(r"[^\W\d_]{2}|[^\W\d_a-zA-Zα-ωΑ-Ω]")
_FACTORIAL = re.compile(r"[^\W_][)\]}|*'\"`$]*\s?!")
_AMOUNT = re.compile(r"\W*[$€£¥₹₩]\s?[\d.,]+!+\W*")
# Feet and inches, or a derivative: 6", f".
_MEASURED = re.compile(r"(?:\d|(?<![^\W_])[^\W\d_])\Z")

# Invisible or equivalent characters: byte-order and direction marks, soft hyphens, the choice
# between a coloured and a plain emoji, typographic quotation marks, apostrophes and hyphens.
# Joiners stay: in Persian and Hindi they distinguish words.
_TYPOGRAPHY: dict[int, str | None] = {
    **dict.fromkeys((0xFEFF, 0xAD, 0x200B, 0x200E, 0x200F, 0x61C)),
    **dict.fromkeys((*range(0x202A, 0x202F), *range(0x2060, 0x2065), *range(0x2066, 0x206A))),
    **dict.fromkeys((0xFE0E, 0xFE0F)),
    **dict.fromkeys((0x2018, 0x2019, 0x201A, 0x201B, 0x2BC, 0x2BB), "'"),
    **dict.fromkeys((0x201C, 0x201D, 0x201E, 0x201F), '"'),
    **dict.fromkeys((0x2010, 0x2011, 0x2013, 0x2212), "-"),
}


# What a model writes around an answer: emphasis, mathematics, a tag, one pair of brackets.
_WRAPPED = tuple(
    re.compile(pattern, re.DOTALL)
    for pattern in (
        r"\$\$?(?P<inner>[^$]+)\$\$?",
        r"\\\((?P<inner>.+)\\\)",
        r"\\\[(?P<inner>.+)\\\]",
        r"(?i:<(?P<tag>(?:final[_ ]?)?answer)>)"
        r"(?P<inner>(?:(?!</?(?i:final|answer)).)+)</(?P=tag)>",
        # A lower-case or upper-case word in double underscores is a name: __init__, __FILE__.
        r"(?!__(?:[a-z][a-z\d]+|[A-Z][A-Z\d]+)__\Z)(?P<marks>__?)(?P<inner>[^_]+)(?P=marks)",
        # An interval keeps its brackets: (0, 1) is not [0, 1].
        r"\((?P<inner>[^(),;]+)\)",
    )
)
_COMMAND = re.compile(
    r"\\(?:boxed|fbox|framebox|text(?:bf|it|rm|sf|tt|normal)?|math(?:bf|it|rm|sf|tt)|emph|mbox)"
    r"\s{0,3}\{"
)
_LAYERS = 20
_BRACE = re.compile(r"\\.|[{}]", re.DOTALL)


def unwrapped(text: str) -> str:
    r"""Return an answer without what only surrounds it: `(42)`, `$42$`, `\boxed{42}`, `_Paris_`."""
    for _ in range(_LAYERS):
        bare = _bare(" ".join(text.split()))
        inner = _in_braces(bare)
        if inner is None:
            match = next((m for pattern in _WRAPPED if (m := pattern.fullmatch(bare))), None)
            inner = match and match["inner"]
        if not inner:
            break
        text = inner
    return text


def _in_braces(text: str) -> str | None:
    r"""Return what is inside `\boxed{…}` and its like; None for another text.

    The inner text may have braces of its own, in pairs: `\boxed{\frac{1}{2}}`.
    """
    command = _COMMAND.match(text)
    if command is None or not text.endswith("}"):
        return None
    depth = 1
    for brace in _BRACE.finditer(text, command.end()):
        depth += {"{": 1, "}": -1}.get(brace[0], 0)
        if depth == 0:
            inner = text[command.end() : brace.start()]
            return inner if brace.end() == len(text) and inner.strip() else None
    return None


def fold_width(text: str) -> str:
    """Return the text with one form per letter (NFKC) and single spaces."""
    if not text.isascii():
        text = text.translate(_TYPOGRAPHY)
        text = _COMPATIBLE.sub(lambda part: unicodedata.normalize("NFKC", part.group()), text)
        text = unicodedata.normalize("NFC", text)
    return " ".join(text.split())


def _bare(text: str) -> str:
    """Return the text without surrounding punctuation, unless it is all punctuation."""
    if not text.strip(_SIGNS):
        return text
    start, end = 0, len(text)
    factorial = "!" in text and _has_factorial(text)
    while True:
        first, last = text[start], text[end - 1]
        if last in _CLOSING or (last == "!" and not factorial):
            end -= 1
        elif first in _OPENING or (first == "." and _is_ellipsis(text, start)):
            start += 1
        elif first == last and first in _PAIRED:
            start, end = start + 1, end - 1
        elif first == '"':
            start += 1
        elif last == '"' and not _MEASURED.search(text[max(start, end - 3) : end - 1]):
            end -= 1
        elif first in "!*" and text[after := _end_of_run(text, start)] == " ":
            start = after
        else:
            return text[start:end]


def _has_factorial(text: str) -> bool:
    """Return whether a text without words has a factorial; `$350!` and `¡5!` have none."""
    if "¡" in text or _WORD.search(text) or _AMOUNT.fullmatch(text):
        return False
    return _FACTORIAL.search(text) is not None


def _is_ellipsis(text: str, place: int) -> bool:
    """Return whether a point is not glued to what follows: `.5` is not `5`, nor `.net` `net`."""
    return text[place + 1] in _SIGNS or text[place - 1 : place] == "."


def _end_of_run(text: str, start: int) -> int:
    """Return where the repetitions of a character end."""
    end = start
    while text[end] == text[start]:
        end += 1
    return end


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
