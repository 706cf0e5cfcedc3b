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
    r"[\s*_#>:.()-]*(?:(?:the|my|so|is|i|give|final|overall|rating|score|grade|verdict|therefore|"
    r"thus|answer)\b[\s*_:,.()-]{1,9}){0,6}\\?\[\\?\[[^\[\]\n]{1,40}\]\\?\][\s*_.!)]*",
    re.IGNORECASE,
)
_LONGEST_LINE = 200


def has_given(text: str, kind: str) -> bool:
    """Return whether a reply so far ends with the line of its verdict, and reads as one."""
    if not text.rstrip(" \t").endswith("\n") or text.count("```") % 2:
        return False
    line = text.rstrip().rpartition("\n")[2]
    if len(line) > _LONGEST_LINE or not _LINE.fullmatch(line):
        return False
    read = read_winner if kind == WINNER else read_rating
    return read(text).value is not None
