"""Where a model's thoughts begin and end in its text. Pure.

Every family of reasoning models marks its thoughts in its own way, and what passes on its text
may drop the special ones among the marks. A verdict or an answer is what stands outside. No
pattern here goes over the same stretch twice.
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
# A mark that somebody quotes is spoken of, not set.
_FREE = r"(?<![`'\"“‘«])"
# `<think>`, `<thinking>`, `<seed:think>`, `<inner_thoughts>`, `<think type="x">`; also `< think >`.
_END = r"/\s{0,3}"
_TAG = r"<\s{0,3}%s(?:[\w.-]{1,24}[:_|])?%s(?:_process|_step|s)?(?:\s[^<>]{0,200})?\s{0,3}>"


@dataclass(frozen=True)
class _Family:
    """How one family opens and closes its thoughts.

    Attributes:
        late: the closing mark alone ends a thought that the prompt had opened.
        first: thoughts open at the beginning of the text only: elsewhere the words are plain.
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
    # As a command line shows them.
    _Family(r"Thinking\.\.\.\n", r"\.\.\.done thinking\.?", first=True),
    _Family(
        r"[*#\s]{0,9}Here(?:'s| is| are) my (?:thought process|thoughts|thinking|reasoning"
        r"(?: steps| process)?)\b\s{0,9}:?",
        r"Here(?:'s| is) my (?:final )?(?:response|answer)\b[*\s]{0,9}:?[*]{0,3}"
        r"|\[BEGIN FINAL RESPONSE\]",
        late=False,
        first=True,
    ),
    # What opens this one is plain text that the prompt holds.
    _Family(r"(?!)", r"\[BEGIN FINAL RESPONSE\]"),
    _Family(r"<\|im_start\|>\s{0,9}think\b", r"<\|im_start\|>\s{0,9}answer\b"),
    _Family(r"<details\b[^<>]{0,200}\btype=.?reasoning[^<>]{0,200}>", r"</details>", late=False),
)
_OPENS = tuple(re.compile(family.opens, re.IGNORECASE) for family in _FAMILIES)
_CLOSES = tuple(re.compile(family.closes, re.IGNORECASE) for family in _FAMILIES)
# What a template puts around the answer that follows a thought.
_WRAPPER = (
    r"<\|start\|>\s{0,9}assistant|<\|(?:message|return|end|im_end|eot_id)\|>"
    rf"|<{_BAR}(?:begin|start|end)(?:_of)?_(?:solution|response|answer|text|box){_BAR}>"
    r"|\[(?:BEGIN|END) FINAL RESPONSE\]|</?(?:output|answer|response|solution|final_answer)>"
)
_BEFORE = re.compile(rf"(?:\s|{_WRAPPER})+", re.IGNORECASE)
_BEHIND = re.compile(rf"(?:{_WRAPPER})\s*\Z", re.IGNORECASE)
_LONGEST_WRAPPER = 64


def without_thoughts(text: str) -> tuple[str, bool]:
    """Return (the text outside all thoughts, whether the last thought was left unfinished).

    A closing mark without an opening one ends a thought that the prompt had opened: nothing
    before it is kept. A thought that never ends leaves what stands before it.
    """
    found, unfinished = text, False
    for family, opens, closes in zip(_FAMILIES, _OPENS, _CLOSES, strict=True):
        if closes.search(found) or opens.search(found):
            found, open_still = _outside(found, family, opens, closes)
            unfinished |= open_still
    return (found if found == text else _unwrapped(found)).strip(), unfinished


def _outside(
    text: str, family: _Family, opens: re.Pattern[str], closes: re.Pattern[str]
) -> tuple[str, bool]:
    """(what stands outside one family's thoughts, whether the last one is open)."""
    kept: list[str] = []
    place = 0
    opened = _opening(text, 0, family, opens)
    closed = closes.search(text)
    while opened or (closed and family.late):
        if opened is None or (closed and family.late and closed.start() < opened.start()):
            assert closed is not None
            kept, place = [], closed.end()
        else:
            kept.append(text[place : opened.start()])
            if closed and closed.start() < opened.end():
                closed = closes.search(text, opened.end())
            if closed is None:
                return "".join(kept), True
            place = closed.end()
        # What was looked for in vain is not looked for again.
        if opened and opened.start() < place:
            opened = _opening(text, place, family, opens)
        if closed and closed.start() < place:
            closed = closes.search(text, place)
    return "".join(kept) + text[place:], False


def _opening(
    text: str, place: int, family: _Family, opens: re.Pattern[str]
) -> re.Match[str] | None:
    """The next opening mark from `place` on."""
    if not family.first:
        return opens.search(text, place)
    if place:
        return None
    return opens.match(text, len(text) - len(text.lstrip()))


def _unwrapped(text: str) -> str:
    """An answer without the marks around it."""
    start = _BEFORE.match(text)
    text = text[start.end() :] if start else text
    while True:
        text = text.rstrip()
        tail = max(0, len(text) - _LONGEST_WRAPPER)
        end = _BEHIND.search(text, tail)
        if end is None:
            return text
        text = text[: end.start()]
