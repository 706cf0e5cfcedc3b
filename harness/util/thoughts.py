"""Separating a model's reasoning from its answer. Pure.

Every family of reasoning models delimits its reasoning in its own way, and special tokens may be
dropped on the way. The answer or verdict is the text outside. An answer may also be about such
tags: those of plain text delimit reasoning only where it begins the reply, and none does inside
code. No pattern here scans the same text twice.
"""

from __future__ import annotations

import re
from bisect import bisect_left
from collections.abc import Sequence
from dataclasses import dataclass
from heapq import merge

_BAR, _GAP = r"[|｜]", r"[_▁ -]?"
_SURE = r"(?:think(?:ing)?|thoughts?|reasoning)"
_MORE = (
    r"(?:think(?:ing)?|thoughts?|reason(?:ing)?|reflect(?:ion)?|scratch_?pad|monologue|analysis|"
    r"rationale|deliberation|cot|chain_of_thought|planning)"
)
# `<think>`, `<thinking>`, `<seed:think>`, `<inner_thoughts>`, `<think type="x">`; also `< think >`.
_END = r"/\s{0,3}"
_TAG = r"<\s{0,3}%s(?:[\w.-]{1,24}[:_|])?%s(?:_process|_step|s)?(?:\s[^<>]{0,200})?\s{0,3}>"


@dataclass(frozen=True)
class _Family:
    """How one family opens and closes its reasoning.

    Attributes:
        late: whether a closing tag alone ends reasoning that the prompt had opened.
        first: whether reasoning opens only at the start of the text; elsewhere it is plain text.
        plain: whether the tags are plain text, which an answer may also write about.
    """

    opens: str
    closes: str
    late: bool = True
    first: bool = False
    plain: bool = False


_FAMILIES = (
    _Family(_TAG % ("", _SURE), _TAG % (_END, _SURE), plain=True),
    _Family(_TAG % ("", _MORE), _TAG % (_END, _MORE), late=False, first=True, plain=True),
    _Family(
        r"\[\s{0,3}THINK(?:ING)?\s{0,3}\]",
        r"\[\s{0,3}/THINK(?:ING)?\s{0,3}\]",
        plain=True,
    ),
    # Harmony: every channel but `final`.
    _Family(
        r"<\|channel\|>\s{0,9}(?!\s{0,9}final\b)\w{1,40}",
        r"<\|channel\|>\s{0,9}final\b[^<\n]{0,80}(?:<\|constrain\|>[^<\n]{0,80})?(?:<\|message\|>)?",
    ),
    # The same once its special tokens were dropped.
    _Family(
        r"(?-i:(?:assistant)?analysis(?=[A-Z\"']))",
        r"(?-i:assistant\s{0,9}final)",
        late=False,
        first=True,
    ),
    _Family(r"(?!)", r"(?-i:assistantfinal)"),
    _Family(r"<\|channel>\s{0,9}\w{0,40}", r"<channel\|>"),
    _Family(
        rf"<{_BAR}(?:(?:start|begin){_GAP}(?:of{_GAP})?)?(?:inner{_GAP})?{_SURE}"
        rf"(?:{_GAP}(?:start|begin))?{_BAR}>",
        rf"<{_BAR}(?:/|(?:end|stop){_GAP}(?:of{_GAP})?)(?:inner{_GAP})?{_SURE}{_BAR}>"
        rf"|<{_BAR}{_SURE}{_GAP}(?:end|stop){_BAR}>",
    ),
    _Family(r"◁\s{0,3}think(?:ing)?\s{0,3}▷", r"◁\s{0,3}/\s{0,3}think(?:ing)?\s{0,3}▷"),
    _Family(r"<unused94>", r"<unused95>"),
    _Family(rf"<{_BAR}inner_prefix{_BAR}>", rf"<{_BAR}inner_suffix{_BAR}>"),
    # As command-line tools print it.
    _Family(r"Thinking\.\.\.\n", r"\.\.\.done thinking\.?", first=True),
    _Family(
        r"[*#\s]{0,9}Here(?:'s| is| are) my (?:thought process|thoughts|thinking|reasoning"
        r"(?: steps| process)?)\b\s{0,9}:?",
        r"Here(?:'s| is) my (?:final )?(?:response|answer)\b[*\s]{0,9}:?[*]{0,3}"
        r"|\[BEGIN FINAL RESPONSE\]",
        late=False,
        first=True,
    ),
    # The opening is plain text inside the prompt.
    _Family(r"(?!)", r"\[BEGIN FINAL RESPONSE\]"),
    _Family(r"<\|im_start\|>\s{0,9}think\b", r"<\|im_start\|>\s{0,9}answer\b"),
    _Family(r"<details\b[^<>]{0,200}\btype=.?reasoning[^<>]{0,200}>", r"</details>", late=False),
)
_OPENS = tuple(re.compile(family.opens, re.IGNORECASE) for family in _FAMILIES)
_CLOSES = tuple(re.compile(family.closes, re.IGNORECASE) for family in _FAMILIES)
# Tags that a template puts around the answer after the reasoning.
_WRAPPER = (
    r"<\|start\|>\s{0,9}assistant|<\|(?:message|return|end|im_end|eot_id)\|>"
    rf"|<{_BAR}(?:begin|start|end)(?:_of)?_(?:solution|response|answer|text|box){_BAR}>"
    r"|\[(?:BEGIN|END) FINAL RESPONSE\]|</?(?:output|answer|response|solution|final_answer)>"
)
_BEFORE = re.compile(rf"(?:\s|{_WRAPPER})+", re.IGNORECASE)
_BEHIND = re.compile(rf"(?:{_WRAPPER})\s*\Z", re.IGNORECASE)
_LONGEST_WRAPPER = 64


# A fence closes with a bare line of the same marks.
FENCE = re.compile(
    r"^[ \t]*(?P<marks>`{3,}|~{3,})[^\n`]*\n(?:(?![ \t]*(?P=marks))[^\n]*\n)*+"
    r"[ \t]*(?P=marks)[`~]*[ \t]*$",
    re.MULTILINE,
)
_CODE = re.compile(
    FENCE.pattern + r"|(?<!`)``(?!`)[^\n]{1,400}?``(?!`)|(?<!`)`[^`\n]{1,400}`",
    re.MULTILINE,
)
_QUOTES = "`'\"“‘«„‚‹「『("
_UNQUOTES = "`'\"”’»“‘›」』)"
# What begins a turn of a chat, in a prompt's end: reasoning may open behind it.
_TURN = re.compile(
    r"(?:[|｜]>|[|｜]\]|</?s>|_of_turn>|</role>|\[/INST\]"
    r"|(?:\A|[\n>\]])\s{0,9}(?:assistant|model|chatbot|bot|ai)"
    r"|\bassistant\s?:|(?:\A|\n)[#\s]{0,9}(?:response|a)\s?:)\s{0,9}\Z",
    re.IGNORECASE,
)
_TURN_LENGTH = 60
# "<think> is a tag": a sentence about it.
_TOLD = re.compile(
    r"[ \t]+(?:(?:is|are|was|were|isn['’]t|aren['’]t|tags?|elements?|blocks?|sections?|tokens?|"
    r"markers?|pairs?|opens?|starts?|begins?|marks|means|denotes|delimits|encloses|holds|wraps|"
    r"contains|must|cannot|never|and|or|vs\.?)\b|<)|[,;)]|-[Tt]ag"
)
# "end with </think>", "</think> closes it".
_TELLING = re.compile(
    r"\b(?:is|are|was|the|an?|with|by|and|or|tags?|tokens?|of|to|at|after|before|until|till|its|"
    r"next|first|last|final|closing|matching|no|without|missing|like|called|named|as|in|via|than)"
    r"[ \t]+\Z",
    re.IGNORECASE,
)
_GOES_ON = re.compile(r"[ \t]+[a-z]|[,.;:!?)'\"”’»]")
_DOTS = re.compile(r"[ \t]*(?:\.{2,}|…)[ \t]*")
_ENDED = re.compile(r"(?:[.!?…。！？\])*_|\"”’]|\n)\s{0,9}\Z")


def without_thoughts(text: str) -> tuple[str, bool]:
    """Return (the text outside all reasoning, whether the last reasoning is unfinished).

    A closing tag without an opening one ends reasoning that the prompt had opened: nothing before
    it is kept. Of reasoning that never ends, the text before it is kept.
    """
    text = text.strip()
    outside, unfinished = text, False
    for family, opens, closes in zip(_FAMILIES, _OPENS, _CLOSES, strict=True):
        if closes.search(outside) or opens.search(outside):
            outside, open_still = _outside(outside, family, opens, closes)
            unfinished |= open_still
    return (outside if outside == text else _unwrapped(outside)).strip(), unfinished


Span = tuple[int, int]
"""Where a tag begins and ends. Plain tuples: a hostile text may hold a hundred thousand."""


@dataclass(frozen=True)
class _Text:
    """A text and what of one family is in it.

    Attributes:
        openings: where reasoning may open.
        closings: where it may close.
        hidden: closing tags inside code, which close nothing if there is another.
    """

    text: str
    openings: Sequence[Span]
    closings: Sequence[Span]
    hidden: Sequence[Span]

    def closing_after(self, position: int) -> Span | None:
        """Return the tag that closes reasoning which opened before `position`."""
        for tags in (self.closings, self.hidden):
            index = bisect_left(tags, (position, 0))
            if index < len(tags):
                return tags[index]
        return None


def _outside(
    text: str, family: _Family, opens: re.Pattern[str], closes: re.Pattern[str]
) -> tuple[str, bool]:
    """Return (the text outside one family's reasoning, whether the last one is open)."""
    found = _read(text, family, opens, closes)
    kept: list[str] = []
    # Where the answer begins, -1 once some of it was there.
    position, begin = 0, _begin(text, 0)
    # The opening tags that are only written about, for which closing tags are to come.
    written: list[Span] = []
    opening_at = dict(found.openings)
    for tag in merge(found.openings, found.closings if family.late else ()):
        start, end = tag
        if start < position:
            continue
        if start in opening_at:
            if family.plain and not _is_used(found, tag, begin):
                written.append(tag)
                continue
            kept.append(text[position:start])
            closing = found.closing_after(end)
            if closing is None:
                return "".join(kept), True
            position = closing[1]
            begin = _begin(text, position) if start <= begin else -1
        elif not family.plain or not _is_written(text, tag, written):
            kept, position = [], end
            begin = _begin(text, position)
    return "".join(kept) + text[position:], False


def _read(text: str, family: _Family, opens: re.Pattern[str], closes: re.Pattern[str]) -> _Text:
    """Return the tags of one family in a text, without those in code."""
    code = [match.span() for match in _CODE.finditer(text)] if "`" in text or "~" in text else []
    ends = [end for _, end in code]

    def is_code(tag: Span) -> bool:
        index = bisect_left(ends, tag[1])
        return index < len(code) and code[index][0] <= tag[0]

    closings = [match.span() for match in closes.finditer(text)]
    if family.plain:
        closings = [tag for tag in closings if not _quoted(text, tag)]
    if family.first:
        first = opens.match(text, len(text) - len(text.lstrip()))
        openings = [first.span()] if first else []
    else:
        openings = [match.span() for match in opens.finditer(text)]
    hidden = [tag for tag in closings if is_code(tag)]
    if code:
        openings = [tag for tag in openings if not is_code(tag)]
        closings = [tag for tag in closings if not is_code(tag)]
    return _Text(text, openings, closings, hidden)


def _begin(text: str, position: int) -> int:
    """Return where the answer begins: behind blanks and the tags around it."""
    start = _BEFORE.match(text, position)
    return start.end() if start else position


def _quoted(text: str, tag: Span) -> bool:
    """Return whether a tag follows a quotation mark."""
    return text[max(0, tag[0] - 1) : tag[0]] in tuple(_QUOTES)


def _is_used(found: _Text, tag: Span, begin: int) -> bool:
    """Return whether an opening tag opens reasoning, rather than being written about.

    Args:
        begin: where the reply begins, -1 if some of it is before.
    """
    text = found.text
    if _quoted(text, tag):
        return False
    closing = found.closing_after(tag[1])
    before = text[max(0, tag[0] - _TURN_LENGTH) : tag[0]]
    if tag[0] == begin or _TURN.search(before):
        return not _is_told(text, tag, closing)
    if closing is None or _DOTS.fullmatch(text, tag[1], closing[0]):
        return False
    # A thought on lines of its own that no sentence announces, or one behind the whole answer.
    alone = text[tag[0] - 1] == "\n" and text[closing[1] : closing[1] + 1] in ("", "\n")
    if alone and not before.rstrip().endswith((":", "：")):
        return not _is_told(text, tag, closing)
    return closing[1] == len(text) and _ENDED.search(before) is not None


def _is_told(text: str, tag: Span, closing: Span | None) -> bool:
    """Return whether a tag at the beginning is the subject of a sentence, or a list's in XML."""
    name = re.match(r"<\s{0,3}(\w+?)s\b", text[slice(*tag)])
    if name and re.compile(rf"\s{{0,99}}<{name[1]}[\s>]", re.IGNORECASE).match(text, tag[1]):
        return True
    if closing is None:
        return _TOLD.match(text, tag[1]) is not None
    if _DOTS.fullmatch(text, tag[1], closing[0]):
        return _GOES_ON.match(text, closing[1]) is not None
    return _TOLD.match(text, tag[1]) is not None and _in_sentence(text, closing)


def _in_sentence(text: str, tag: Span) -> bool:
    """Return whether a closing tag is a word of a sentence."""
    before = text[max(0, tag[0] - 20) : tag[0]]
    if _TELLING.search(before):
        return True
    apart = before[-1:] in (" ", "\t") and "\n" not in before[len(before.rstrip()) :]
    return apart and _GOES_ON.match(text, tag[1]) is not None


def _is_written(text: str, tag: Span, written: list[Span]) -> bool:
    """Return whether a closing tag is written about; take the opening one that it belongs to.

    "<think>…</think>" in a line belongs together, and so does a block with lines of its own.
    """
    line = text.rfind("\n", 0, tag[0])
    while written:
        opening = written.pop()
        start, end = opening
        behind = text[end : end + 1]
        if _quoted(text, opening) and behind in tuple(_UNQUOTES):
            continue
        before = text[max(0, start - 20) : start].rstrip(" \t>*#|-")
        if start == 0 or before.endswith("\n") or behind == "\n" or end > line:
            return True
    return _in_sentence(text, tag)


def _unwrapped(text: str) -> str:
    """Return an answer without the tags around it."""
    start = _BEFORE.match(text)
    text = text[start.end() :] if start else text
    while True:
        text = text.rstrip()
        tail = max(0, len(text) - _LONGEST_WRAPPER)
        end = _BEHIND.search(text, tail)
        if end is None:
            return text
        text = text[: end.start()]


def spoken(text: str) -> str:
    """Return what a reader sees of an answer: it as it is, or what is outside its reasoning.

    An answer without reasoning keeps its blanks, so that calls about it keep their identity.
    """
    outside, _ = without_thoughts(text)
    return text if outside == text.strip() else outside
