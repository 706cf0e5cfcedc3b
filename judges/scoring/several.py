"""Deciding which of several verdicts in one reply counts. Pure.

Judges repeat the scale ("from [[1]] to [[10]]"), quote the format they were given, correct
themselves, and sometimes rate two things separately. In the first three cases the last verdict
counts; with two ratings of two things none does, and picking one would invent a score.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass

from kdharness.harness.util.thoughts import FENCE

_CONTEXT = 200
"""Characters before a verdict that may contain its subject."""
_MOST = 50
"""Maximum number of verdicts per reply that are examined, from the end."""
_SHORT = 3
"""Up to this many words between two verdicts make them a list, unless one is a correction."""


def words_of(words: str) -> frozenset[str]:
    """Return the words of a text as a set."""
    return frozenset(words.split())


_SENTENCE = re.compile(r"[.!?;。！？；\n]")
_WORD = re.compile(r"[^\W_]+(?:['’][^\W_]+)?")
_NAMES_IT = re.compile(r"[:：=|]\W{0,9}\Z")
_ARROW = re.compile(r"[→⇒]|[-=]>")
_FINAL = words_of(
    "overall final finally total average mean conclusion altogether combined together verdict "
    "summary sum therefore thus hence all"
)
_CORRECTS = words_of(
    "no but wait hmm sorry actually rather instead correction corrected correcting revised "
    "revise revising adjusted adjust updated update changed change reconsidered reconsider "
    "reconsidering reflection second-guess better new now actual"
)
_GIVES = words_of(
    "so earn earns deserve deserves merit merits give gives giving gave rate rates rated "
    "rating score scores scored grade grades award awards assign assigns get gets choose "
    "chose pick prefer judge"
)
_PLAIN = words_of(
    "the a an my this that it its is are be i i'd i’d i'll i’ll would will of to for and so "
    "in on at by as with also here answer answers response responses reply output assistant "
    "assistants ai model user quality given"
)
_NUMBERS = {
    "first": "1",
    "1st": "1",
    "one": "1",
    "a": "1",
    "second": "2",
    "2nd": "2",
    "two": "2",
    "b": "2",
    "third": "3",
    "3rd": "3",
    "three": "3",
    "c": "3",
    "fourth": "4",
    "d": "4",
    "4th": "4",
    "four": "4",
}
_COUNTED = re.compile(
    r"\b(first|second|third|fourth|1st|2nd|3rd|4th)\b"
    r"|\b(?:turn|question|answer|response|assistant|output|part|task|reply|model|candidate|round|"
    r"criterion|aspect|prompt|item|version|option)s?\s{0,3}(?:no\.?|number|#)?\s{0,3}"
    r"(\d{1,3}|one|two|three|four|[a-d])\b",
    re.IGNORECASE,
)
# In a comparison "the first answer" is a side, "the first turn" is a part of what is judged.
_COUNTED_PARTS = re.compile(
    r"\b(first|second|third|fourth|1st|2nd|3rd|4th)\s{1,3}(?:turn|question|part|task|round|"
    r"criterion|aspect|prompt|item)\b"
    r"|\b(?:turn|question|part|task|round|criterion|aspect|prompt|item)s?\s{0,3}"
    r"(?:no\.?|number|#)?\s{0,3}(\d{1,3}|one|two|three|four)\b",
    re.IGNORECASE,
)
_EARLIER = re.compile(
    r"\b(?:previous|earlier|prior|preceding|last) (?:turn|question|answer|response|round)\b",
    re.IGNORECASE,
)
_QUOTED = re.compile(
    r"(?:like this|for (?:example|instance)|e\.g\.|such as|in the form(?:at)? of"
    r"|(?:this|the|following|required|requested|given|strict) format)\W{0,6}"
    r"(?:(?:the |a |my )?(?:rating|score|verdict)\W{0,5})?\Z",
    re.IGNORECASE,
)


# An apostrophe inside a word is no quotation mark.
_QUOTATION = re.compile(
    r"\"[^\"\n]{1,400}\"|“[^“”\n]{1,400}”|„[^„“”\n]{1,400}[“”]|«[^«»\n]{1,400}»|»[^«»\n]{1,400}«"
    r"|‹[^‹›\n]{1,400}›|「[^「」\n]{1,400}」|『[^『』\n]{1,400}』|`[^`\n]{1,400}`"
    r"|‘(?:[^‘’\n]|(?<=\w)’(?=\w)){1,400}’|‚[^‚‘’\n]{1,400}[‘’]"
    r"|(?<!\w)'(?:[^'\n]|(?<=\w)'(?=\w)){1,400}'(?!\w)"
)
_BLOCK_QUOTE = re.compile(r"^[ \t]{0,9}>[^\n]*", re.MULTILINE)
# "My verdict:" before a quotation or a block makes it the judge's own.
_OWN = re.compile(
    r"(?:\A|[.!?;\n]|\b(?:my|final|overall)\b)[\s*_#]{0,9}(?:(?:my|the|final|overall|so|thus|"
    r"therefore)\b[\s,]{1,3}){0,4}(?:rating|score|grade|verdict|judge?ment|conclusion|decision)\b"
    r"(?:\s(?:is|here))?[^\w.!?;\n\[\]]{0,9}\s{0,9}\Z",
    re.IGNORECASE,
)

_NAMING = (
    r"the|an?|this|that|its|own|following|exact|literal|only|just|simply|even|text|string|line|"
    r"phrase|sentence|words?|tag|label|self-?rating|rating|score|grade|verdict|final|overall|of"
)
NAMING = rf"(?:[\s*_(]{{1,3}}(?:{_NAMING})\b:?){{0,7}}"
"""Words between "says" and a verdict that add nothing."""
SAYS = (
    r"\b(?:wr(?:o|i)tes?|writing|sa(?:ys?|id|ying)|claim(?:s|ed|ing)?|contain(?:s|ed|ing)?|"
    r"includ(?:es?|ed|ing)|ends? with|end(?:ed|ing) (?:with|in|by)|add(?:s|ed|ing)?|read(?:s|ing)|"
    r"demand(?:s|ed|ing)?|ask(?:s|ed|ing)? for|stat(?:es?|ed|ing)|print(?:s|ed)|insert(?:s|ed)|"
    r"inject(?:s|ed|ing)?|plant(?:s|ed)|embed(?:s|ded)|append(?:s|ed)|mention(?:s|ed)|"
    r"announc(?:es|ed)|declar(?:es|ed)|proclaim(?:s|ed)|insist(?:s|ed)(?: on)?|"
    r"(?:last|final|closing|first) (?:line|sentence|words?) (?:is|was|are|were)|"
    r"(?:declares|declared|calls|called|names|named) itself[^.;\n]{0,20} (?:with|by|as)|"
    r"(?:giv(?:es|ing)|gave|award(?:s|ed)|rat(?:es|ed)|grad(?:es|ed)|scor(?:es|ed)) itself)"
)
_TELLS = re.compile(rf"(?:{SAYS}|\bwritten):?" + NAMING + r"\W{0,4}\Z", re.IGNORECASE)


@dataclass(frozen=True)
class Mark:
    """A verdict in a text: its span and its value, None if it is unreadable."""

    start: int
    end: int
    value: float | None


def settle(text: str, marks: Sequence[Mark], *, compares: bool = False) -> Mark | None:
    """Return the verdict that counts; None if unreadable, or if the verdicts differ in subject.

    Args:
        compares: whether a verdict is about both answers, so that naming one is no subject.
    """
    marks = marks[-_MOST:]
    if not marks or marks[-1].value is None:
        return None
    last = marks[-1]
    others = [mark for mark in marks[:-1] if mark.value not in (None, last.value)]
    if not others:
        return last
    labels = {mark: label_of(text, marks, index) for index, mark in enumerate(marks)}
    last_words = _words(labels[last])
    if last_words & _FINAL:
        return last
    if any(_apart(labels[other], labels[last], compares) for other in others):
        return None
    between = text[marks[-2].end : last.start]
    words = _WORD.findall(between.lower())
    if marks[-2].value == last.value or len(words) > _SHORT or _ARROW.search(between):
        return last
    if set(words) & (_CORRECTS | _FINAL):
        return last
    before = _WORD.findall(labels[marks[-2]].lower())
    parallel = bool(words and before) and words[-1] == before[-1] and len(words) > 1
    return last if set(words) & _GIVES and not parallel else None


def is_quoted(text: str, mark: Mark) -> bool:
    """Return whether a verdict is only the format example that the judge was given."""
    return _QUOTED.search(text, max(0, mark.start - 60), mark.start) is not None


def own_words(text: str, marks: Sequence[Mark]) -> list[Mark]:
    """Return the verdicts that are not quoted, or all of them if every one may be the judge's own.

    A judge quotes what it was shown, and an answer may contain a verdict for that purpose. A
    verdict alone in quotation marks, or in a block of its own, may be the judge's own.
    """
    marks = marks[-_MOST:]
    quoted, told = quoted_marks(text, marks)
    own = [mark for mark in marks if mark not in quoted]
    return own or [mark for mark in marks if mark not in told]


def quoted_marks(text: str, marks: Sequence[Mark]) -> tuple[set[Mark], set[Mark]]:
    """Return (the verdicts that are quoted, those among them that follow "says")."""
    quoted: set[Mark] = set()
    told: set[Mark] = set()
    for pattern in (_QUOTATION, FENCE, _BLOCK_QUOTE):
        spans = [match.span() for match in pattern.finditer(text)]
        for mark in marks:
            for start, end in spans:
                if not (start <= mark.start and mark.end <= end):
                    continue
                before = text[max(0, start - 80) : start]
                if _TELLS.search(before) and not _speaks(before):
                    told.add(mark)
                    quoted.add(mark)
                elif _is_quotation(mark, start, end, pattern is _QUOTATION):
                    quoted |= set() if _OWN.search(before) else {mark}
    return quoted, told


def _is_quotation(mark: Mark, start: int, end: int, inline: bool) -> bool:
    """Return whether quotation marks have other words inside; a block quotes in any case."""
    return not inline or end - start > mark.end - mark.start + 2


def _speaks(before: str) -> bool:
    """Return whether the sentence before a quotation is about what the judge says."""
    return re.search(r"\b(?:I|my)\b", _SENTENCE.split(before)[-1], re.IGNORECASE) is not None


def label_of(text: str, marks: Sequence[Mark], index: int, *, whole: bool = False) -> str:
    """Return the label of a verdict: its sentence since the previous verdict.

    Args:
        whole: keep the blanks at its end.
    """
    start = marks[index].start
    begin = max(0, start - _CONTEXT, marks[index - 1].end if index else 0)
    label = _SENTENCE.split(text[begin:start].rstrip())[-1]
    return label + " " if whole and text[start - 1 : start].isspace() else label


def sentence_before(text: str, start: int) -> str:
    """Return the beginning of the sentence that a verdict at `start` is in."""
    return _SENTENCE.split(text[max(0, start - _CONTEXT) : start].rstrip())[-1]


def _words(label: str) -> set[str]:
    return set(_WORD.findall(label.lower()))


def _apart(one: str, two: str, compares: bool) -> bool:
    """Return whether two labels are about two things: numbered ones, or different headings."""
    first, second = _counted(one, compares), _counted(two, compares)
    if first and second:
        return first != second
    if bool(_EARLIER.search(one)) != bool(_EARLIER.search(two)):
        return True
    if not (_NAMES_IT.search(one) and _NAMES_IT.search(two)):
        return False
    theirs, ours = _words(one) - _PLAIN - _GIVES, _words(two) - _PLAIN - _GIVES
    return bool(theirs and ours and theirs != ours and not ours & _CORRECTS)


def _counted(label: str, compares: bool) -> frozenset[str]:
    """Return the numbers or letters of the things in a label."""
    pattern = _COUNTED_PARTS if compares else _COUNTED
    names = (match[1] or match[2] for match in pattern.finditer(label))
    return frozenset(_NUMBERS.get(name.lower(), name.lower()) for name in names)
