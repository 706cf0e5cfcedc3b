"""When a judge's reply may end: with the line that gives its verdict. Pure.

A local judge is stopped there, since a small one goes on with another question. It is stopped
nowhere else: `[[1]]` may be the scale, a quotation or code, and the verdict is still to come.
"""

from __future__ import annotations

import re

from kdharness.judges.scoring.verdicts import read_rating, read_winner

RATING, WINNER = "rating", "winner"
ENDING = "the line of the verdict"
"""Part of the identity of calls to engines that end replies so."""
# Nothing but the verdict and plain words for it. Quotation marks may quote an answer, and "initial
# rating", "turn 1" and "style" announce further ones.
_LINE = re.compile(
    r"[\s*_#>:.()-]*(?:(?:the|my|so|is|i|i['’]d|it|this|for|to|of|would|rate|give|deserves|earns|final|"
    r"overall|rating|score|grade|verdict|therefore|thus|hence|answer|response|assistant|[ab]|better)"
    r"\b[\s*_:,.()-]{1,9}){0,9}(?:(?<=:\s)[\"“])?\\?\[\\?\[[^\[\]\n]{1,40}\]\\?\][\"”]?"
    r"(?:\s{0,2}/\s{0,2}10\b|\s{1,2}out of (?:10|ten)\b)?[\s*_.!)]*",
    re.IGNORECASE,
)
_SENTENCE = re.compile(r"(?<=[.!?])\s+")
_LONGEST_LINE = 200


def has_given(text: str, kind: str) -> bool:
    """Return whether a reply so far ends with the line of its verdict, and reads as one."""
    if not text.rstrip(" \t").endswith("\n") or text.count("```") % 2:
        return False
    line = text.rstrip().rpartition("\n")[2]
    sentence = _SENTENCE.split(line[-_LONGEST_LINE:])[-1]
    if len(sentence) == _LONGEST_LINE or not _LINE.fullmatch(sentence):
        return False
    read = read_winner if kind == WINNER else read_rating
    return read(text).value is not None
