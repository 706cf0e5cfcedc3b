"""Ratings without double brackets: "Rating: 8/10", a bare number, JSON, a tag. Pure.

A judge is asked for `[[8]]` and may write something else. It is read only where the reply leaves
no doubt: a number may also be a citation, a percentage, a bound, or the rating of one aspect.
"""

from __future__ import annotations

import json
import re
from collections.abc import Sequence

from kdharness.judges.scoring.several import Mark, sentence_before, words_of

# A judge's text may be adversarial: no pattern here may scan the same text twice.
_NAME = r"(?:(?<![^\W\d_])(?:rating|score|verdict|grade)|评分|得分|分数|打分|评级)"
_VALUE = r"(?<![-−–+.,])(\d{1,9}(?:\.\d{1,9})?)(?:\s{0,9}(?:/|out of)\s{0,9}10(?: stars| points)?)?"
# A single bracket is a rating if the text calls it one, and a citation or a link otherwise.
_NAMED = re.compile(
    r"(?:rating|score|verdict|grade)\b[^.\n\[\]]{0,40}\[(\d{1,9}(?:\.\d{1,9})?)"
    r"(?:\s{0,9}/\s{0,9}10)?\](?!\()",
    re.IGNORECASE,
)
# Neither a bound (">8") nor a percentage.
_LINE = re.compile(
    rf"{_NAME}[^\w<>≥≤]{{0,6}}(?:boxed\{{\s{{0,3}})?{_VALUE}(?!\s{{0,3}}[%‰])\W{{0,99}}$",
    re.IGNORECASE | re.MULTILINE,
)
_WHOLE = re.compile(
    r"[*_$`\s]{0,9}(?:\\boxed\{\s{0,3})?\[?(\d{1,9}(?:\.\d{1,9})?)\]?(?:\s{0,9}/\s{0,9}10)?"
    r"\s{0,3}\}?\.?[*_$`\s]{0,9}\.?"
)
_TAG = re.compile(
    r"<(rating|score|grade|verdict)>\s{0,9}(\d{1,9}(?:\.\d{1,9})?)(?:\s{0,9}/\s{0,9}10)?\s{0,9}"
    r"</\1>",
    re.IGNORECASE,
)
# "I give it 9 out of 10."
_GIVEN = re.compile(
    r"(?:\bI(?:['’]d|['’]ll| would| will)?\s(?:\w{1,12}\s)?(?:give|rate|award|grade|score)"
    r"|\b(?:it|this|(?:the|this)\s(?:answer|response|reply))\s"
    r"(?:\w{1,12}\s)?(?:deserves|earns|gets|merits|receives))\b"
    r"(?:\s(?:it|this|that|the|an?|answer|response|reply|assistant|overall|score|rating|grade|of|at|"
    r"as|solid|strong|full|only)\b){0,6}[\s*_:]{1,4}"
    r"(\d{1,9}(?:\.\d{1,9})?)\s{0,9}(?:/|out of)\s{0,9}10(?:\s(?:stars|points))?\W{0,99}\Z",
    re.IGNORECASE,
)
# What stands directly before a bracket in code: a name ("x[[1]]"), or a call ("f(x)[[1]]").
_CODE_BEFORE = re.compile(
    r"(?:(?<!\w)(?!(?:rating|score|grade|verdict|final|overall|rated?|is|of|be|gives?|earns|deserves|"
    r"awards?|it|this)\Z)[a-z_][\w.]{0,60}|[\w.]\([^()\n]{0,60}\)|(?<!rating)(?<!score)\w\("
    r"|[\w)\]]\$\w{1,60})\Z",
    re.IGNORECASE | re.ASCII,
)
# "if [[ 1 ]]" is a test of a shell.
_SHELL_BEFORE = re.compile(r"(?:\b(?:if|elif|while|until)|&&|\|\||!)\s{1,3}\Z")
_LINK_BEHIND = re.compile(r"\((?:https?:|www\.|mailto:|[#/<.]|[\w-]{1,60}\.[a-z]{2,9}[)/])", re.I)
_SOURCE_BEFORE = re.compile(
    r"\b(?:see(?: also)?|cf\.?|according to|(?:stated|shown|claimed|noted|described|reported|cited|"
    r"listed|explained|mentioned|argued|proven?|defined|discussed|published) (?:in|by|at|on)|"
    r"as in|ref(?:erence|s|\.)?|references|sources?|footnotes?|citations?)\s{0,3}\Z",
    re.IGNORECASE,
)
_SOURCES = re.compile(
    r"^[\s#*_]{0,9}(?:references?|sources?|bibliography|citations?|footnotes?|literature|"
    r"works cited|further reading)[*_]{0,3}\s?:?[*_]{0,3}\s{0,9}$",
    re.IGNORECASE | re.MULTILINE,
)
_NAMED_BY = words_of(
    "rating ratings score scores grade grades verdict rate rates rated give gives giving gave earn "
    "earns deserve deserves merit merits award awards assign assigns get gets receives say final "
    "finally overall total conclusion 评分 得分 分数 打分 评级"
)
_WORDS = re.compile(r"[^\W\d_]+")
_LAST_WORD = re.compile(r"([^\W\d_]+)\s+(?:rating|score|grade|verdict)\b\W*\Z", re.IGNORECASE)
_REST = re.compile(
    r"[^\w.!?;\n]*(?:10|ten|out|of|stars?|points?)?[^\w.!?;\n]*(?:[.!?;\n]|\Z)", re.I
)
_ASPECT = re.compile(r"([^\W\d_]+)[ \t]+\Z")
_ITEMISED = re.compile(r"[^\W\d_]{3,}\W{1,3}\d{1,2}(?:/10)?\s{0,3}(?:[,;\n|]|\Z)")
_OVERALL = words_of(
    "a an the my your this that its final overall total general quality combined average mean s "
    "answer assistant response revised corrected new single rating score grade verdict numerical "
    "numeric is and so give gives"
)
_SURE_OF = re.compile(
    r"\A\W{0,9}(?:my |the )?(?:confidence|certainty|probability)"
    r"(?: (?:score|level|rating|in [^\n]{0,30}))?(?: is)?\W{0,9}\Z",
    re.IGNORECASE,
)
_FENCE = re.compile(r"\A\s{0,99}```\w{0,9}\s{0,99}|\s{0,99}```\s{0,99}\Z")
_OBJECT = re.compile(r"\{[^{}]{1,4000}\}")
_KEYS = ("rating", "score", "grade", "overall_rating", "overall_score", "final_score")
_TEXT_VALUE = re.compile(r"\s{0,3}(\d{1,9}(?:\.\d{1,9})?)(?:\s{0,3}/\s{0,3}10)?\s{0,3}")
_LONGEST_OBJECT = 20_000
_MOST_LINES = 50


def is_confidence(label: str) -> bool:
    """Return whether a label is of the judge's confidence, which rates nothing."""
    return _SURE_OF.match(label) is not None


def rates_nothing(text: str, start: int, end: int) -> bool:
    """Return whether double brackets are code or a citation."""
    before = text[max(0, start - 80) : start]
    if _CODE_BEFORE.search(before) or _LINK_BEHIND.match(text, end):
        return True
    if text[start + 2 : start + 3].isspace() and _SHELL_BEFORE.search(before):
        return True
    return _SOURCE_BEFORE.search(before) is not None


def sources_start(text: str) -> int:
    """Return where a list of sources begins, the end of the text without one."""
    starts = [match.start() for match in _SOURCES.finditer(text)]
    return starts[-1] if starts else len(text)


def is_named(text: str, mark: Mark) -> bool:
    """Return whether a number in brackets is called a rating, or is a sentence of its own."""
    label = sentence_before(text, mark.start)
    words = _WORDS.findall(label.lower())
    if not words:
        return _REST.match(text, mark.end) is not None
    return not _NAMED_BY.isdisjoint(words)


def is_overall(text: str, mark: Mark) -> bool:
    """Return whether a plain rating is of the whole answer, rather than of an aspect."""
    named = _LAST_WORD.search(sentence_before(text, mark.start))
    return named is None or named[1].lower() in _OVERALL


def object_rating(text: str) -> Mark | None:
    """Return the rating of a reply that is one JSON object, None if it is not one with a rating."""
    inside = _FENCE.sub("", text)
    if not (inside.startswith("{") and inside.endswith("}")) or len(inside) > _LONGEST_OBJECT:
        return None
    return _rating_of(inside, 0, len(text))


def plain_ratings(text: str) -> list[Mark]:
    """Return ratings without double brackets that cannot be anything else."""
    whole = _WHOLE.fullmatch(text.strip())
    if whole:
        return [Mark(0, len(text), float(whole[1]))]
    named = list(_NAMED.finditer(text))
    if named:
        return [Mark(match.start(1) - 1, match.end(), float(match[1])) for match in named]
    lines = list(_LINE.finditer(text.rstrip()))[-_MOST_LINES:]
    # Only at the end of the reply: in the middle such words may refer to anything.
    if lines and lines[-1].end() == len(text.rstrip()):
        return _of_lines(text, lines)
    said = _GIVEN.search(text)
    if said:
        return [Mark(said.start(1), said.end(1), float(said[1]))]
    if lines:
        return []
    return _unless_several(
        [Mark(m.start(), m.end(), float(m[2])) for m in _TAG.finditer(text)]
    ) or (
        _unless_several(
            [
                mark
                for match in _OBJECT.finditer(text)
                if (mark := _rating_of(match[0], *match.span())) is not None
            ]
        )
    )


def _of_lines(text: str, lines: Sequence[re.Match[str]]) -> list[Mark]:
    """Return the ratings of lines; an aspect's is unreadable if other numbers stand beside it."""
    marks = []
    for match in lines:
        if is_confidence(sentence_before(text, match.start(1))):
            continue
        aspect = _ASPECT.search(text, max(0, match.start() - 40), match.start())
        several = (
            aspect is not None
            and aspect[1].lower() not in _OVERALL
            and _ITEMISED.search(text, 0, match.start()) is not None
        )
        value = None if several else float(match[1])
        marks.append(Mark(match.start(1), match.end(1), value))
    return marks


def _unless_several(marks: Sequence[Mark]) -> list[Mark]:
    """Return one rating, said once or several times; nothing if several differ."""
    return list(marks[-1:]) if len({mark.value for mark in marks}) == 1 else []


def _rating_of(text: str, start: int, end: int) -> Mark | None:
    """Return the rating of a JSON object as a mark, without a value if it names several."""
    try:
        pairs = json.loads(text, object_pairs_hook=list)
    except (ValueError, RecursionError):
        return None
    values = [_number(value) for key, value in pairs if str(key).strip().lower() in _KEYS]
    found = {value for value in values if value is not None}
    if not found:
        return None
    return Mark(start, end, found.pop() if len(found) == 1 else None)


def _number(value: object) -> float | None:
    """Return a number, also one that is written as a text."""
    if isinstance(value, str):
        match = _TEXT_VALUE.fullmatch(value)
        return float(match[1]) if match else None
    if isinstance(value, (int, float)) and not isinstance(value, bool):
        return float(min(max(value, -1e9), 1e9))
    return None
