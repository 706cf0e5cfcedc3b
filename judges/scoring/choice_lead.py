"""The choice that an answer begins with and explains afterwards. Pure.

"B. Note that A is a distractor" answers B, and so does "B" on a line of its own above the reasons
against A, C and D. A text that repeats the choices or discusses them one by one begins with its
first one without answering it.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from itertools import pairwise

from kdharness.judges.scoring.choice_groups import OPEN, SHUT, Mention, only

REASON = (
    r"(?:\b(?:because|since|as|due to|weil|denn|da|parce que|car|puisque|porque|ya que|pues|perché"
    r"|poiché|потому что|так как)\b|因为|因為|由于|由於)"
)
"""Words that begin a reason."""

_CUE = r"\b(?:option|choice|letter|answer)\b"
_BEFORE = rf"(?:{OPEN}|[#>-]|{_CUE}){{0,9}}\Z"
_BEGINS = re.compile(_BEFORE, re.IGNORECASE)
_BEGINS_WITH = re.compile(
    rf"[*_`\"'”’»)\]}}$]{{0,6}}(?:[.:：。、,]?{SHUT}{{0,6}}(?:\n|\Z)|[.:：。)）](?:\s|\Z)|"
    rf"\s[-–—]\s|[,，]?\s{{0,3}}{REASON}|\s{{0,2}}\(\s?(?:{REASON}|not\b))",
    re.IGNORECASE,
)
_BRACKET = re.compile(r"[*_`\"'”’»)\]}$]{0,6}\s{0,2}\(")
_SENTENCE_ENDS = re.compile(rf"{SHUT}{{0,6}}(?:[.!。]|\n|\Z)")
_STARTS = re.compile(rf"(?:^|\n|[.!?。！？]){_BEFORE}", re.IGNORECASE)
_MARKED = re.compile(r"[*_`\"']{0,3}(?:[.):：）、][*_]{0,3}(?:\s|\Z)|\s[-–—]\s)")
_LINE_ENDS = re.compile(rf"{SHUT}{{0,6}}(?:\n|\Z)")
_NO_TEXT = re.compile(rf"(?:{SHUT}|{OPEN}|[.。!#>:：、,-]){{0,20}}?(?:\n|\Z)")
_REACH = 40
_BLANK_LINE = re.compile(r"\n[^\S\n]*\n")
_HEADING = re.compile(
    r"\s*[#*_]{0,5}(?:reason|explanation|because|why|justification|rationale|note|analysis|解析|"
    r"解释|理由)",
    re.IGNORECASE,
)
_LISTED = re.compile(r"[\s*_#>-]{0,9}[(\[]?(?:[^\W\d_]|\d{1,2})[)\].:][*_]{0,3}\s+\S")


def first(
    text: str,
    groups: Sequence[Sequence[Mention]],
    mentions: Sequence[Mention],
    options: Sequence[str],
) -> str | None:
    """Return the choice that a text begins with, as an answer that is explained afterwards.

    Args:
        options: every choice, in the order of the question.
    """
    group = groups[0]
    option = only(group)
    if option is None or not _BEGINS.fullmatch(text[: group[0].start]):
        return None
    others = [mention for mention in mentions if mention.option != option]
    end = group[-1].end
    if not _BEGINS_WITH.match(text, end) and not _has_in_brackets(text, end, others):
        return None
    items = [mention for mention in others if _is_item(text, mention)]
    if _stands_apart(text, group, others, items, options):
        return option
    letters = (mention for mention in others if mention.end - mention.start == 1)
    marked = {mention.option for mention in letters if _MARKED.match(text, mention.end)}
    return None if items or len(marked) >= len(options) - 1 else option


def lists_afterwards(text: str) -> bool:
    """Return whether each line but the first is an item of a list, such as "A. Rome"."""
    start, *rest = [line for line in text.split("\n") if line.strip()]
    return bool(rest) and not _LISTED.match(start) and all(map(_LISTED.match, rest))


def _has_in_brackets(text: str, end: int, others: Sequence[Mention]) -> bool:
    """Return whether brackets follow that speak about other choices: "B (A was tempting)"."""
    opened = _BRACKET.match(text, end)
    if opened is None:
        return False
    closed = text.find(")", opened.end())
    if not _SENTENCE_ENDS.match(text, closed + 1):
        return False
    return any(opened.end() <= mention.start < closed for mention in others)


def _is_item(text: str, mention: Mention) -> bool:
    """Return whether a choice is a list item: it is a whole line, or written like "A."."""
    starts = _STARTS.search(text[max(0, mention.start - 20) : mention.start])
    if starts is None:
        return False
    return _MARKED.match(text, mention.end) is not None or (
        _LINE_ENDS.match(text, mention.end) is not None
    )


def _stands_apart(
    text: str,
    group: Sequence[Mention],
    others: Sequence[Mention],
    items: Sequence[Mention],
    options: Sequence[str],
) -> bool:
    """Return whether the first line is the answer, not the first item of the list that follows.

    It is another kind of line than the items, comes out of their order, or a blank line divides it
    from them as none divides them from each other.
    """
    start, end = group[0].start, group[-1].end
    line_end = _line_end(text, end)
    if any(mention.start < line_end for mention in others):
        return False
    shape = _shape(text, start, end)
    has_text = shape[-1]
    if not items:
        return not has_text
    place = options.index(group[0].option)
    out_of_order = any(options.index(item.option) < place for item in items)
    blank = _BLANK_LINE.match(text, line_end) is not None
    if all(_shape(text, item.start, item.end) != shape for item in items):
        return place > 0 or blank or _HEADING.match(text, line_end) is not None
    apart = any(_BLANK_LINE.search(text, one.end, two.start) for one, two in pairwise(items))
    return blank and ((out_of_order and has_text) or (len(items) > 1 and not apart))


def _shape(text: str, start: int, end: int) -> tuple[bool, bool, bool, bool]:
    """Return how a choice is written in its line.

    Whether a word for it comes first, other text does, it is more than a letter, text follows.
    """
    before = text[max(0, start - _REACH) : start].rpartition("\n")[2]
    return (
        re.search(_CUE, before, re.IGNORECASE) is not None,
        _BEGINS.fullmatch(before) is None,
        end - start > 1,
        _NO_TEXT.match(text, end) is None,
    )


def _line_end(text: str, start: int) -> int:
    end = text.find("\n", start)
    return len(text) if end < 0 else end
