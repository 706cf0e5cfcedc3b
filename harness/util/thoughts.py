"""Separating a model's reasoning from its answer. Pure.

Every family of reasoning models delimits its reasoning in its own way, and special tokens may be
dropped on the way. The answer or verdict is the text outside. No pattern here scans the same text
twice.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

_BAR, _GAP = r"[|｜]", r"[_▁ -]?"
_SURE = r"(?:think(?:ing)?|thoughts?|reasoning)"
_MORE = (
    r"(?:think(?:ing)?|thoughts?|reason(?:ing)?|reflect(?:ion)?|scratch_?pad|monologue|analysis|"
    r"rationale|deliberation|cot|chain_of_thought|planning)"
)
# A quoted tag is mentioned, not used.
_FREE = r"(?<![`'\"“‘«])"
# `<think>`, `<thinking>`, `<seed:think>`, `<inner_thoughts>`, `<think type="x">`; also `< think >`.
_END = r"/\s{0,3}"
_TAG = r"<\s{0,3}%s(?:[\w.-]{1,24}[:_|])?%s(?:_process|_step|s)?(?:\s[^<>]{0,200})?\s{0,3}>"


@dataclass(frozen=True)
class _Family:
    """How one family opens and closes its reasoning.

    Attributes:
        late: whether a closing tag alone ends reasoning that the prompt had opened.
        first: whether reasoning opens only at the start of the text; elsewhere it is plain text.
    """

    opens: str
    closes: str
    late: bool = True
    first: bool = False


_FAMILIES = (
    _Family(_FREE + _TAG % ("", _SURE), _FREE + _TAG % (_END, _SURE)),
    _Family(_FREE + _TAG % ("", _MORE), _FREE + _TAG % (_END, _MORE), late=False, first=True),
    _Family(
        _FREE + r"\[\s{0,3}THINK(?:ING)?\s{0,3}\]", _FREE + r"\[\s{0,3}/THINK(?:ING)?\s{0,3}\]"
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


def without_thoughts(text: str) -> tuple[str, bool]:
    """Return (the text outside all reasoning, whether the last reasoning is unfinished).

    A closing tag without an opening one ends reasoning that the prompt had opened: nothing before
    it is kept. Of reasoning that never ends, the text before it is kept.
    """
    outside, unfinished = text, False
    for family, opens, closes in zip(_FAMILIES, _OPENS, _CLOSES, strict=True):
        if closes.search(outside) or opens.search(outside):
            outside, open_still = _outside(outside, family, opens, closes)
            unfinished |= open_still
    return (outside if outside == text else _unwrapped(outside)).strip(), unfinished


def _outside(
    text: str, family: _Family, opens: re.Pattern[str], closes: re.Pattern[str]
) -> tuple[str, bool]:
    """Return (the text outside one family's reasoning, whether the last one is open)."""
    kept: list[str] = []
    position = 0
    opened = _opening(text, 0, family, opens)
    closed = closes.search(text)
    while opened or (closed and family.late):
        if opened is None or (closed and family.late and closed.start() < opened.start()):
            assert closed is not None
            kept, position = [], closed.end()
        else:
            kept.append(text[position : opened.start()])
            if closed and closed.start() < opened.end():
                closed = closes.search(text, opened.end())
            if closed is None:
                return "".join(kept), True
            position = closed.end()
        # Search again only for what was found before.
        if opened and opened.start() < position:
            opened = _opening(text, position, family, opens)
        if closed and closed.start() < position:
            closed = closes.search(text, position)
    return "".join(kept) + text[position:], False


def _opening(
    text: str, position: int, family: _Family, opens: re.Pattern[str]
) -> re.Match[str] | None:
    """Return the next opening tag from `position` on."""
    if not family.first:
        return opens.search(text, position)
    if position:
        return None
    return opens.match(text, len(text) - len(text.lstrip()))


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
